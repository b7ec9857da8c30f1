import { Command } from 'commander'
import type { PeerReach } from '../net/network-report.ts'
import { DAEMON_FLAGS, daemonFetch } from './daemon.ts'
import type { DaemonOptions } from './daemon.ts'
import { shortPeer } from './status.ts'
import { table } from './table.ts'

/** `skein peers`: how each peer is reached. */
export function peersCommand(): Command {
  const command = new Command('peers').description('show how each peer of the swarm is reached')
  for (const [flag, help] of DAEMON_FLAGS) command.option(flag, help)
  return command.option('--json', 'print all as JSON').action(async (options: DaemonOptions & { json?: true }) => {
    const { peers } = (await (await daemonFetch(options, '/api/peers')).json()) as { peers: PeerReach[] }
    console.log(options.json === true ? JSON.stringify(peers, null, 2) : describePeers(peers))
  })
}

/** The peers as a table; a peer has a row for each of its links. */
export function describePeers(peers: readonly PeerReach[]): string {
  if (peers.length === 0) return 'no peers yet'
  const rows = peers.flatMap(({ peer, name, links, bytesPerSecond, reason }) => {
    const head = [shortPeer(peer), name ?? '-']
    if (links.length === 0) return [[...head, 'not connected', '-', '-', reason ?? '']]
    return links.map(({ by, relay, rttMs }, i) => [
      ...(i === 0 ? head : ['', '']),
      relay === null ? by : `relay ${shortPeer(relay)}`,
      rttMs === null ? '-' : `${rttMs} ms`,
      i > 0 || bytesPerSecond === null ? '-' : `${(bytesPerSecond / 1e6).toFixed(1)} MB/s`,
      i === 0 ? (reason ?? '') : '',
    ])
  })
  return table(['PEER', 'NAME', 'REACHED BY', 'RTT', 'SENDS', 'NOTE'], rows)
}
