import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { multiaddr } from '@multiformats/multiaddr'
import { QUIC_V1 } from '@multiformats/multiaddr-matcher'
import { hostOf } from './operator.ts'
import { loadQuic } from './quic.ts'

/** An address that is not listened on, and why. */
export interface LeftOut {
  readonly address: string
  readonly reason: string
}

const PORT = 4115
const NO_FAMILY: ReadonlySet<string> = new Set(['EAFNOSUPPORT', 'EADDRNOTAVAIL', 'EPROTONOSUPPORT'])

/** Where a node listens unless told otherwise: TCP and QUIC, IPv4 and IPv6. The first is needed, the others only help. Port 0: any. */
export function defaultListen(port = PORT): readonly string[] {
  return Object.freeze([
    `/ip4/0.0.0.0/tcp/${port}`,
    `/ip4/0.0.0.0/udp/${port}/quic-v1`,
    `/ip6/::/tcp/${port}`,
    `/ip6/::/udp/${port}/quic-v1`,
  ])
}

/** Those of the addresses that this machine can listen on, and why it can't on the others. The first is not looked at: a node needs it. */
export async function usableListen(addresses: readonly string[]): Promise<{ listen: readonly string[]; leftOut: readonly LeftOut[] }> {
  const [first, ...others] = addresses
  const faults = await Promise.all(others.map(listenFault))
  return {
    listen: [...(first === undefined ? [] : [first]), ...others.filter((_, i) => faults[i] === null)],
    leftOut: others.flatMap((address, i) => (faults[i] === null || faults[i] === undefined ? [] : [{ address, reason: faults[i] }])),
  }
}

/** Why a TCP or QUIC address can't be listened on, in words; null when it can, or is of another kind. */
export async function listenFault(address: string): Promise<string | null> {
  const parsed = multiaddr(address)
  const host = hostOf(parsed)
  const portOf = (name: string): number => Number(parsed.getComponents().find((component) => component.name === name)?.value ?? NaN)
  if (host === null) return null
  if (!QUIC_V1.exactMatch(parsed)) return Number.isNaN(portOf('tcp')) ? null : await tcpFault(host, portOf('tcp'))
  const missing = await quicFault()
  return missing ?? (await udpFault(host, portOf('udp')))
}

/** Why QUIC does not run on this machine; null when it does. */
export async function quicFault(): Promise<string | null> {
  try {
    await loadQuic()
    return null
  } catch (error) {
    return `QUIC's native library does not load (${firstLine(error as Error)})`
  }
}

/** Why a TCP port can't be listened on; null when it can. */
export function tcpFault(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => resolve(describe(error, host)))
    server.listen({ host, port, ipv6Only: host.includes(':') }, () => server.close(() => resolve(null)))
  })
}

function udpFault(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const isIpv6 = host.includes(':')
    const socket = createSocket({ type: isIpv6 ? 'udp6' : 'udp4', ipv6Only: isIpv6 })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      socket.close()
      resolve(describe(error, host))
    })
    socket.bind(port, host, () => socket.close(() => resolve(null)))
  })
}

function describe(error: NodeJS.ErrnoException, host: string): string {
  if (error.code === 'EADDRINUSE') return 'the port is in use'
  if (host === '::' && NO_FAMILY.has(error.code ?? '')) return 'this machine has no IPv6'
  return error.message
}

function firstLine(error: Error): string {
  return error.message.split('\n')[0]!
}
