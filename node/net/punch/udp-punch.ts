import { randomInt } from 'node:crypto'
import { encodeProbe, PUNCH_LIMITS as LIMITS } from '../../../protocols/punch/index.ts'
import type { Endpoint, Reach } from '../../../protocols/punch/index.ts'
import type { UdpPath } from './face.ts'
import { UdpSocket } from './udp-socket.ts'

export interface UdpPunchInit {
  /** Shared sockets, one per family that this machine has. */
  readonly sockets: readonly UdpSocket[]
  readonly token: Uint8Array
  readonly mine: Reach
  readonly theirs: Reach
  /**
   * Of the side that waits to be dialled: hears of each path over which the peer's probes arrive, before the peer can know that they do.
   * The sockets of these paths are then the caller's; else that of the path returned is.
   */
  readonly onHeard?: (path: UdpPath) => void
  /** Ends the attempt. */
  readonly signal: AbortSignal
}

const CALL_INTERVAL_MS = 50
/** Routers that let nothing in yet are asked less often after the first second. */
const EARLY_CALLS = 20
const LATE_CALL_EVERY = 4
/** An echo may be lost, or come before the other router opens. */
const ECHOES = 2
/**
 * Birthday paradox: a router that maps by destination gives each of these sockets another port towards the peer; the peer's random
 * probes meet one of them after some hundred tries (65536 / 256).
 */
const BIRTHDAY_SOCKETS = 256
/** How often the many sockets call, in ticks: each call renews a router's entry. */
const BIRTHDAY_CALL_EVERY = 20
const RANDOM_PROBES_PER_TICK = 100
const FIRST_RANDOM_PORT = 1024
/** Endpoints learnt from where probes came from. */
const MAX_LEARNT = 4

/**
 * Sends calls to the peer's endpoints until one is echoed. Resolves with the path of the first echo, null when the signal ends it before.
 * Until the signal ends the attempt the peer's calls are answered.
 */
export async function punchUdp(init: UdpPunchInit): Promise<UdpPath | null> {
  const { sockets, token, mine, theirs, onHeard, signal } = init
  if (signal.aborted) return null
  const call = encodeProbe('call', token)
  const echo = encodeProbe('echo', token)
  const name = Buffer.from(token).toString('hex')
  const isBirthday = (mine.mapping === 'dependent') !== (theirs.mapping === 'dependent')
  const extra = isBirthday && mine.mapping === 'dependent' ? await openMany(BIRTHDAY_SOCKETS) : []
  const targets: Endpoint[] = [...theirs.endpoints]
  const kept = new Set<UdpSocket>()
  const heard = new Set<string>()
  const { promise: found, resolve } = Promise.withResolvers<UdpPath | null>()

  const unwatch = [...sockets, ...extra].map((each) =>
    each.watch(name, (kind, remote, socket) => {
      const path: UdpPath = { socket, remote, isOwn: !sockets.includes(socket) }
      if (kind === 'echo') {
        if (onHeard === undefined && kept.size === 0) kept.add(socket)
        return resolve(path)
      }
      for (let i = 0; i < ECHOES; i++) socket.send(echo, remote)
      // The peer may sit behind an endpoint that no reflector saw: it is called where it called from.
      socket.send(call, remote)
      const key = `${socket.port} ${remote.address} ${remote.port}`
      if (onHeard === undefined || heard.has(key) || heard.size >= MAX_LEARNT) return undefined
      heard.add(key)
      kept.add(socket)
      onHeard(path)
      return undefined
    }),
  )

  const guessed = isBirthday && theirs.mapping === 'dependent' ? theirs.endpoints.find(isIpv4) : undefined
  let ticks = 0
  let guesses = 0
  const tick = (): void => {
    ticks++
    if (ticks <= EARLY_CALLS || ticks % LATE_CALL_EVERY === 0) {
      for (const target of targets) sockets.find((socket) => socket.family === familyOf(target))?.send(call, target)
    }
    if (ticks % BIRTHDAY_CALL_EVERY === 1)
      for (const socket of extra) for (const target of targets.filter(isIpv4)) socket.send(call, target)
    if (guessed !== undefined) {
      for (let i = 0; i < RANDOM_PROBES_PER_TICK && guesses < LIMITS.maxRandomProbes; i++, guesses++)
        sockets[0]?.send(call, { address: guessed.address, port: randomInt(FIRST_RANDOM_PORT, 65_536) })
    }
  }
  const timer = setInterval(tick, CALL_INTERVAL_MS)
  const onAbort = (): void => resolve(null)
  signal.addEventListener('abort', onAbort, { once: true })
  // It may have ended while the sockets were opened.
  if (signal.aborted) onAbort()
  else tick()
  const path = await found
  clearInterval(timer)
  const release = (): void => {
    for (const end of unwatch) end()
    for (const socket of extra) if (!kept.has(socket)) socket.close()
  }
  if (signal.aborted) release()
  else signal.addEventListener('abort', release, { once: true })
  signal.removeEventListener('abort', onAbort)
  return path
}

export function familyOf(endpoint: Endpoint): 4 | 6 {
  return endpoint.address.includes(':') ? 6 : 4
}

function isIpv4(endpoint: Endpoint): boolean {
  return familyOf(endpoint) === 4
}

/** As many IPv4 sockets as the machine gives, up to `count`. */
async function openMany(count: number): Promise<UdpSocket[]> {
  const opened = await Promise.allSettled(Array.from({ length: count }, () => UdpSocket.open(4, 0)))
  return opened.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
}
