import { createServer } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { Endpoint, PunchSide, Reach } from '../../../protocols/punch/index.ts'
import { NO_REACH, PUNCH_LIMITS as LIMITS } from '../../../protocols/punch/index.ts'
import { judgeMapping } from './mapping.ts'
import type { Sighting } from './mapping.ts'
import type { ReflectorDirectory } from './reflector-directory.ts'
import { reflectTcp } from './tcp-reflector.ts'
import type { UdpSocket } from './udp-socket.ts'

/** This node's part of a punch. */
export interface OwnSide {
  readonly side: PunchSide
  /** The port that TCP is dialled from; 0 without TCP. */
  readonly tcpPort: number
}

/** Looks at this node's sockets through the reflectors: where the peer shall send to. `withUdp`, `withTcp`: transports that can be used. */
export async function describeSide(
  directory: ReflectorDirectory,
  sockets: readonly UdpSocket[],
  { withUdp, withTcp }: { withUdp: boolean; withTcp: boolean },
): Promise<OwnSide> {
  const tcpPort = withTcp ? await freePort() : 0
  const [udp, tcp] = await Promise.all([
    withUdp ? describeUdp(directory, sockets) : NO_REACH,
    withTcp ? describeTcp(directory, tcpPort) : NO_REACH,
  ])
  return { side: { udp, tcp }, tcpPort }
}

async function describeUdp(directory: ReflectorDirectory, sockets: readonly UdpSocket[]): Promise<Reach> {
  const sightings = await gather(directory.pick('udp'), async (reflector) => {
    const family = reflector.address.includes(':') ? 6 : 4
    return (await sockets.find((socket) => socket.family === family)?.reflect(reflector)) ?? null
  })
  const seen = judgeMapping(sightings)
  // Peers behind one router, or with IPv6, need no mapping.
  const local = sockets.flatMap((socket) => localAddresses(socket.family).map((address) => ({ address, port: socket.port })))
  const endpoints = unique([...seen.endpoints, ...local]).slice(0, LIMITS.maxEndpoints)
  if (endpoints.length === 0) return NO_REACH
  return { mapping: seen.mapping === 'dependent' ? 'dependent' : 'independent', endpoints }
}

async function describeTcp(directory: ReflectorDirectory, localPort: number): Promise<Reach> {
  return judgeMapping(await gather(directory.pick('tcp'), (reflector) => reflectTcp(reflector, localPort)))
}

async function gather(reflectors: readonly Endpoint[], look: (reflector: Endpoint) => Promise<Endpoint | null>): Promise<Sighting[]> {
  const seen = await Promise.all(reflectors.map(look))
  return reflectors.flatMap((reflector, i) => (seen[i] === null || seen[i] === undefined ? [] : [{ reflector, seen: seen[i] }]))
}

function localAddresses(family: 4 | 6): string[] {
  return Object.values(networkInterfaces())
    .flat()
    .filter((entry) => entry !== undefined && !entry.internal && entry.family === `IPv${family}` && !entry.address.startsWith('fe80:'))
    .map((entry) => entry!.address)
}

function unique(endpoints: readonly Endpoint[]): Endpoint[] {
  return [...new Map(endpoints.map((endpoint) => [`${endpoint.address} ${endpoint.port}`, endpoint])).values()]
}

/** A port that nobody uses now. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
