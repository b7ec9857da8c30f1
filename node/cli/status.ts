import { Command } from 'commander'
import type { SwarmStatus } from '../api/services.ts'
import { describeMissing } from '../router/coverage.ts'
import { DAEMON_FLAGS, daemonFetch } from './daemon.ts'
import type { DaemonOptions } from './daemon.ts'
import { table } from './table.ts'

/** `skein status`: what the running node knows of itself and its swarm. */
export function statusCommand(): Command {
  const command = new Command('status').description('show the running node, its models and its peers')
  for (const [flag, help] of DAEMON_FLAGS) command.option(flag, help)
  return command.option('--json', 'print the whole status as JSON').action(async (options: DaemonOptions & { json?: true }) => {
    const status = (await (await daemonFetch(options, '/api/swarm')).json()) as SwarmStatus
    console.log(options.json === true ? JSON.stringify(status, null, 2) : describeStatus(status))
  })
}

/** The status as text for a terminal. */
export function describeStatus(status: SwarmStatus): string {
  const models = status.models.map(({ name, quant, coverage }) => [
    name,
    quant,
    `${coverage.covered}/${coverage.experts}`,
    String(coverage.minReplicas),
    String(Math.round(status.routing.find((entry) => entry.model === name)?.tokens ?? 0)),
  ])
  const peers = status.peers.map((peer) => [
    shortPeer(peer.peer),
    peer.name === null || peer.name === '' ? '-' : peer.name,
    peer.backoffMs > 0 ? `backed off ${Math.ceil(peer.backoffMs / 1000)} s` : peer.connected ? 'connected' : 'known',
    peer.rttMs === null ? '-' : `${peer.rttMs} ms`,
    String(peer.experts),
    `${peer.callsSent}${peer.callsFailed > 0 ? ` (${peer.callsFailed} failed)` : ''}`,
    peer.ledgerAgeSeconds === null ? '-' : `${peer.ledgerAgeSeconds} s ago`,
  ])
  const hosted = status.holdings.flatMap(({ model, layers }) => layers.map(({ layer, experts }) => [model, String(layer), experts]))
  const incomplete = status.models.filter(({ coverage }) => !coverage.complete)
  return [
    `node   ${status.peer}  (skein ${status.version}, up ${status.uptimeSeconds} s)`,
    `swarm  ${status.swarm}  ${status.ready ? 'ready' : 'not ready: some experts have no live host'}`,
    ...status.addresses.map((address) => `listen ${address}`),
    '',
    table(['MODEL', 'QUANT', 'EXPERTS COVERED', 'REPLICAS (RAREST)', 'TOKENS ROUTED'], models),
    ...incomplete.map(({ name, coverage }) => `${name} can't answer: ${describeMissing(coverage)}`),
    '',
    peers.length === 0 ? 'no peers yet' : table(['PEER', 'NAME', 'STATE', 'CALL OVERHEAD', 'EXPERTS', 'CALLS', 'HEARD'], peers),
    '',
    hosted.length === 0 ? 'hosting nothing' : table(['HOSTED', 'LAYER', 'EXPERTS'], hosted),
  ].join('\n')
}

/** The end of a peer id: the beginning is the same for all Ed25519 peers. */
export function shortPeer(peer: string): string {
  return `…${peer.slice(-8)}`
}
