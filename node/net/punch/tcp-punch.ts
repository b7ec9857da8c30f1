import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection, MultiaddrConnection, PeerId, Transport, Upgrader } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import type { Reach } from '../../../protocols/punch/index.ts'
import { preparedUpgrader } from './prepared-upgrader.ts'
import { familyOf } from './udp-punch.ts'

export interface TcpPunchInit {
  readonly transport: Transport
  readonly upgrader: Upgrader
  readonly peer: PeerId
  /** The port whose mapping the peer was told. */
  readonly localPort: number
  readonly theirs: Reach
  readonly isInitiator: boolean
  /** The TCP connection with the peer that came in meanwhile, if any. */
  readonly inbound: () => Connection | undefined
  readonly signal: AbortSignal
}

/**
 * Phases, which both sides walk through from the same moment. A simultaneous open passes routers that let only answers in. Where one
 * lets a SYN through, its host has no listener and would refuse: so each side listens for a while, too. Nobody may listen during a
 * simultaneous open: on Linux the listener would keep the port from being dialled from.
 */
const PHASES_MS = { together: 1_500, responderListens: 700, initiatorListens: 700 } as const
const ROUND_MS = PHASES_MS.together + PHASES_MS.responderListens + PHASES_MS.initiatorListens
const PAUSE_MS = 30
/** A dial is given up and sent again: a SYN that arrived too early was dropped, and the system repeats it only after a second. */
const DIAL_MS = 400
/** TLS, muxer and identities once the sockets are open. */
const UPGRADE_MS = 5_000

type Phase = keyof typeof PHASES_MS

/** Opens a TCP connection through both routers; null when the signal ended the attempt. */
export async function punchTcp(init: TcpPunchInit): Promise<Connection | null> {
  const { theirs, peer, isInitiator, signal, inbound } = init
  const [endpoint] = theirs.endpoints
  if (endpoint === undefined) return null
  const address = multiaddr(`/ip${familyOf(endpoint)}/${endpoint.address}/tcp/${endpoint.port}/p2p/${peer.toString()}`)
  const startedAt = performance.now()
  const listening = isInitiator ? 'initiatorListens' : 'responderListens'
  while (!signal.aborted) {
    const [phase, leftMs] = phaseAt(performance.now() - startedAt)
    const isClient = isInitiator ? phase !== listening : phase === 'initiatorListens'
    const connection = phase === listening ? await listen(init, leftMs) : await dial(init, address, isClient, Math.min(leftMs, DIAL_MS))
    if (connection !== null) return connection
    const came = inbound()
    if (came !== undefined) return came
    await sleep(PAUSE_MS, undefined, { signal }).catch(() => {})
  }
  return null
}

/** The phase that is due after `elapsedMs`, and how long it goes on. Pure. */
export function phaseAt(elapsedMs: number): [Phase, number] {
  let left = elapsedMs % ROUND_MS
  for (const [phase, ms] of Object.entries(PHASES_MS) as [Phase, number][]) {
    if (left < ms) return [phase, ms - left]
    left -= ms
  }
  return ['together', PHASES_MS.together]
}

async function listen({ transport, upgrader, localPort, inbound, signal }: TcpPunchInit, ms: number): Promise<Connection | null> {
  let upgrading = 0
  const watched: Upgrader = {
    ...preparedUpgrader(upgrader, {}),
    upgradeInbound: async (connection: MultiaddrConnection, options: never) => {
      upgrading++
      try {
        await upgrader.upgradeInbound(connection, options)
      } finally {
        upgrading--
      }
    },
  }
  const listener = transport.createListener({ upgrader: watched })
  const until = performance.now() + ms
  try {
    await listener.listen(multiaddr(`/ip4/0.0.0.0/tcp/${localPort}`))
    // What the peer believes to be open must not be closed because a phase ends.
    const isWaiting = (): boolean => performance.now() < until + (upgrading > 0 ? UPGRADE_MS : 0) && !signal.aborted
    while (isWaiting() && inbound() === undefined) await sleep(PAUSE_MS)
    const connection = inbound()
    if (connection === undefined) await listener.close()
    // Closing it would close the connections that it accepted.
    else connection.addEventListener('close', () => void listener.close(), { once: true })
    return connection ?? null
  } catch {
    // A dial of the phase before may still hold the port.
    return null
  }
}

async function dial(init: TcpPunchInit, address: Multiaddr, isClient: boolean, ms: number): Promise<Connection | null> {
  const { transport, upgrader, localPort, signal } = init
  const attempt = new AbortController()
  const abort = (): void => attempt.abort()
  let timer = setTimeout(abort, ms)
  signal.addEventListener('abort', abort, { once: true })
  const prepared = preparedUpgrader(upgrader, {
    outbound: (connection) => {
      clearTimeout(timer)
      timer = setTimeout(abort, UPGRADE_MS)
      // Of two that dialled each other one must be the server, down to the muxer, which goes by the connection's direction.
      if (!isClient) connection.direction = 'inbound'
    },
  })
  try {
    const options = { localPort, initiator: isClient, signal: attempt.signal, upgrader: prepared }
    return await transport.dial(address, options)
  } catch {
    return null
  } finally {
    // An armed signal would end the socket even after it connected.
    clearTimeout(timer)
    signal.removeEventListener('abort', abort)
  }
}
