import type { Connection } from '@libp2p/interface'

/** What carries a connection. */
export type LinkKind = 'tcp' | 'quic' | 'webrtc' | 'websocket' | 'memory' | 'relay'

/** From the dearest to the cheapest per byte: a relay is another hop on somebody else's line, QUIC and WebRTC cost 2 and 7 times the CPU of TCP (FACTS P3). */
const RANK: readonly LinkKind[] = ['relay', 'webrtc', 'quic', 'websocket', 'tcp', 'memory']

export function linkKind(connection: Pick<Connection, 'remoteAddr'>): LinkKind {
  const names = connection.remoteAddr.getComponents().map((component) => component.name)
  // A WebRTC address is reached by a relay only for its signals.
  if (names.some((name) => name.startsWith('webrtc'))) return 'webrtc'
  if (names.includes('p2p-circuit')) return 'relay'
  if (names.some((name) => name.startsWith('quic'))) return 'quic'
  if (names.includes('ws') || names.includes('wss')) return 'websocket'
  return names.includes('memory') ? 'memory' : 'tcp'
}

/** True when the first carries the same bytes better than the second. */
export function isBetterLink(first: Pick<Connection, 'remoteAddr'>, second: Pick<Connection, 'remoteAddr'>): boolean {
  return RANK.indexOf(linkKind(first)) > RANK.indexOf(linkKind(second))
}

/** The open connection that carries bytes best, undefined without any. Of equals the oldest: when two dials cross, libp2p ends the newer one. */
export function bestConnection<T extends Pick<Connection, 'remoteAddr' | 'status'>>(connections: readonly T[]): T | undefined {
  return connections
    .filter((connection) => connection.status === 'open')
    .reduce<T | undefined>((best, next) => (best === undefined || isBetterLink(next, best) ? next : best), undefined)
}
