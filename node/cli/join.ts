import { freemem } from 'node:os'
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Command } from 'commander'
import { MeshError } from '../../protocols/wire/errors.ts'
import type { SwarmStatus } from '../api/services.ts'
import { rememberSwarm } from '../config-file.ts'
import { defaultDataDir } from '../config.ts'
import { ConfigError } from '../errors.ts'
import type { NetworkReport } from '../net/network-report.ts'
import { SETTINGS } from '../settings.ts'
import { decodeInvite } from '../swarm/invite.ts'
import type { Invite } from '../swarm/invite.ts'
import { joinMembership, loadMembership, saveMembership } from '../swarm/swarm-file.ts'
import { startInBackground } from './background-daemon.ts'
import type { BackgroundDaemon } from './background-daemon.ts'
import { daemonFetch } from './daemon.ts'

/** The invite says these. */
const SAID_BY_INVITE: readonly string[] = ['swarm', 'private', 'bootstrap']
/** An invite that this machine's clock calls expired for longer is not even tried; within it the clock may be what is wrong. */
const CLOCK_DOUBT_MS = 2 * 3600 * 1000
const DEFAULT_WAIT_SECONDS = '60'
const READY_WAIT_MS = 8_000
const POLL_MS = 200

/** `skein join <invite>`: stores the swarm, starts a node in the background, and waits until it is connected. */
export function joinCommand(): Command {
  const command = new Command('join')
    .argument('<invite>', 'what "skein invite" printed')
    .description('join a swarm: everything in one step')
  for (const { key, flag, help } of SETTINGS) if (!SAID_BY_INVITE.includes(key)) command.option(flag, help)
  return command
    .option('--wait <seconds>', 'how long to wait for the first peer', DEFAULT_WAIT_SECONDS)
    .action(async (text: string, options: { data?: string; wait: string; apiKey?: string }) => {
      const invite = decodeInvite(text)
      checkExpiry(invite, Date.now())
      const waitMs = parseWait(options.wait)
      const dataDir = resolve(options.data ?? process.env['SKEIN_DATA'] ?? defaultDataDir())
      if (invite.keys !== null) await saveMembership(dataDir, joinMembership(invite, await loadMembership(dataDir, invite.name)))
      await rememberSwarm(dataDir, invite.name, invite.addresses.map(String))
      const daemon = await startInBackground(dataDir, typedFlags(command))
      console.log(`started    node in the background (process ${daemon.pid}, log ${daemon.logFile}); "skein down" stops it`)
      const api = { api: daemon.url, ...(options.apiKey === undefined ? {} : { apiKey: options.apiKey }) }
      const get = async <T>(path: string): Promise<T> => (await (await daemonFetch(api, path)).json()) as T
      const network = await untilConnected(() => get<NetworkReport>('/api/network'), daemon, waitMs)
      const status = await untilReady(() => get<SwarmStatus>('/api/swarm'))
      console.log(describeJoin({ ...network, peers: (await get<NetworkReport>('/api/network')).peers }, status, freemem()))
    })
}

function checkExpiry({ expiresAt }: Invite, now: number): void {
  if (now < expiresAt) return
  const sentence = `the invite expired at ${new Date(expiresAt).toISOString()}, and this machine's clock says ${new Date(now).toISOString()}`
  if (now - expiresAt > CLOCK_DOUBT_MS) throw new ConfigError(`${sentence}: ask for a new one`)
  console.error(`${sentence}; trying all the same, in case the clock is wrong`)
}

function parseWait(text: string): number {
  const seconds = Number(text)
  if (!Number.isInteger(seconds) || seconds < 1 || seconds > 3600)
    throw new ConfigError(`--wait ${text}: use a whole number of seconds from 1 to 3600`)
  return seconds * 1000
}

/** The flags as they were typed, for `skein up`. */
function typedFlags(command: Command): string[] {
  return SETTINGS.filter(({ key }) => key !== 'data' && command.getOptionValueSource(key) === 'cli').flatMap(({ key, flag, kind }) => {
    const [name] = flag.split(' ') as [string]
    const value = command.getOptionValue(key) as unknown
    if (kind === 'switch') return [name]
    return (Array.isArray(value) ? value : [value]).flatMap((one) => [name, String(one)])
  })
}

async function untilConnected(look: () => Promise<NetworkReport>, daemon: BackgroundDaemon, waitMs: number): Promise<NetworkReport> {
  const deadline = performance.now() + waitMs
  for (;;) {
    const network = await look()
    if (network.swarm.isAdmitted && connectedPeers(network).length > 0) return network
    if (performance.now() > deadline || isRefusedByAll(network)) {
      const reasons = [
        ...network.refused.map(({ reason }) => reason),
        ...network.unreachable.map(({ address, reason }) => `${address}: ${reason}`),
      ]
      throw new MeshError(
        `not connected yet${reasons.length === 0 ? '' : `: ${[...new Set(reasons)].join('; ')}`}. The node keeps trying in the background ` +
          `(process ${daemon.pid}): see "skein status" and "skein doctor", or stop it with "skein down"`,
      )
    }
    await delay(POLL_MS)
  }
}

/** A connection to a peer that has refused is open a moment longer, and its address may fail at the next try: neither is a reason to wait. */
function isRefusedByAll({ refused, peers, unreachable }: NetworkReport): boolean {
  const refusers = new Set(refused.map(({ peer }) => peer))
  const isOpen = peers.some(({ peer, links }) => links.length > 0 && !refusers.has(peer))
  const isPending = unreachable.some(({ address }) => !refusers.has(address.split('/p2p/').at(-1)!))
  return refusers.size > 0 && !isOpen && !isPending
}

/** Of the swarm: an open one stays connected with strangers too, though neither serves the other. */
function connectedPeers({ peers }: NetworkReport): NetworkReport['peers'] {
  return peers.filter(({ links, isMember }) => links.length > 0 && isMember)
}

/** The ledger tells who holds what soon after the first connection; it is not waited for long, for maybe nobody does. */
async function untilReady(look: () => Promise<SwarmStatus>): Promise<SwarmStatus> {
  const deadline = performance.now() + READY_WAIT_MS
  for (;;) {
    const status = await look()
    if (status.ready || performance.now() > deadline) return status
    await delay(POLL_MS)
  }
}

/** What the newcomer should know, as text for a terminal. `freeBytes`: of memory. */
export function describeJoin(network: NetworkReport, status: SwarmStatus, freeBytes: number): string {
  const connected = connectedPeers(network)
  const direct = connected.filter(({ links }) => links.some(({ relay }) => relay === null)).length
  const lines = [`joined     ${network.swarm.name} (${network.swarm.isPrivate ? 'private' : 'open'})`]
  lines.push(
    `connected  ${connected.length} ${connected.length === 1 ? 'peer' : 'peers'}: ${direct} direct, ${connected.length - direct} relayed`,
  )
  for (const { name, coverage, expertBytes } of status.models) {
    lines.push(`model      ${name}: ${coverage.covered} of ${coverage.experts} experts covered, the rarest by ${coverage.minReplicas}`)
    const share = Math.min(1, freeBytes / 2 / expertBytes)
    const size = `${Math.ceil((share * expertBytes) / 2 ** 20)} MiB`
    const need =
      coverage.minReplicas === 0
        ? 'some experts have no host'
        : coverage.minReplicas === 1
          ? 'some have only one host'
          : 'all have two or more'
    lines.push(
      `           this machine could hold ${share === 1 ? 'all experts' : `${Math.floor(share * 100)} % of them`} (${size}); ${need}`,
    )
  }
  return lines.join('\n')
}
