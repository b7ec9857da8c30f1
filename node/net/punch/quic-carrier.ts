import type { Connection, Listener, MultiaddrConnection, PeerId, Transport } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import type { Endpoint } from '../../../protocols/punch/index.ts'
import { QUIC_OPTIONS } from '../quic.ts'
import type { Face } from './face.ts'
import { preparedUpgrader } from './prepared-upgrader.ts'
import type { TransportParts } from './transport-parts.ts'
import { familyOf } from './udp-punch.ts'

interface Quic {
  readonly transport: Transport
  readonly listener: Listener
  /** Where it listens on loopback. */
  readonly port: number
}

/** A face that waits for a connection of a peer. */
interface Expected {
  readonly peer: string
  readonly face: Face
}

/** Runs libp2p's QUIC over punched paths: end-to-end encrypted and authenticated, whatever lies between. Loaded at the first use. */
export class QuicCarrier {
  readonly #parts: TransportParts
  readonly #expected = new Map<number, Expected>()
  #quic: Promise<Quic> | null = null
  #isStopped = false

  constructor(parts: TransportParts) {
    this.#parts = parts
  }

  /** Where faces of the passive side send to. Rejects when the QUIC library can't be loaded on this machine. */
  async port(): Promise<number> {
    return (await this.#load()).port
  }

  /** Dials the peer behind the face, which is closed with the connection or the failure. */
  async dial(face: Face, peer: PeerId, signal: AbortSignal): Promise<Connection> {
    try {
      const { transport } = await this.#load()
      const rename = (connection: MultiaddrConnection): void => {
        connection.remoteAddr = remoteAddress(face.path.remote, peer.toString())
      }
      const upgrader = preparedUpgrader(this.#parts.upgrader, { outbound: rename })
      const address = multiaddr(`/ip4/127.0.0.1/udp/${face.port}/quic-v1/p2p/${peer.toString()}`)
      const connection = await transport.dial(address, { upgrader, signal })
      connection.addEventListener('close', () => face.close(), { once: true })
      return connection
    } catch (error) {
      face.close()
      throw error
    }
  }

  /** Lets the peer, and nobody else, in through the face. */
  expect(face: Face, peer: string): void {
    this.#expected.set(face.port, { peer, face })
  }

  /** Closes a face through which nobody came. */
  forget(face: Face): void {
    if (this.#expected.delete(face.port)) face.close()
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    for (const { face } of this.#expected.values()) face.close()
    this.#expected.clear()
    const quic = await this.#quic?.catch(() => null)
    await quic?.listener.close()
    const transport = quic?.transport as { stop?(): Promise<void> } | undefined
    await transport?.stop?.()
  }

  #load(): Promise<Quic> {
    if (this.#isStopped) return Promise.reject(new Error('the node is stopping'))
    this.#quic ??= this.#start().catch((error: Error) => {
      this.#quic = null
      throw error
    })
    return this.#quic
  }

  async #start(): Promise<Quic> {
    const { quic } = await import('@chainsafe/libp2p-quic')
    const transport = quic({
      ...QUIC_OPTIONS,
      // Faces are on IPv4 loopback, whatever the family of the path.
      ipv6: false,
    })(this.#parts)
    const upgrader = preparedUpgrader(this.#parts.upgrader, { inbound: (connection) => this.#admit(connection) })
    const listener = transport.createListener({ upgrader })
    await listener.listen(multiaddr('/ip4/127.0.0.1/udp/0/quic-v1'))
    return { transport, listener, port: portOf(listener.getAddrs()[0]!) }
  }

  /** Names an inbound connection by where the peer really is. Throws for one that came through no face, or from another peer. */
  #admit(connection: MultiaddrConnection): void {
    const port = portOf(connection.remoteAddr)
    const peer = connection.remoteAddr.getComponents().findLast((component) => component.name === 'p2p')?.value
    const expected = this.#expected.get(port)
    if (expected === undefined || expected.peer !== peer) throw new Error('a QUIC connection that no punch announced')
    this.#expected.delete(port)
    connection.addEventListener('close', () => expected.face.close(), { once: true })
    connection.remoteAddr = remoteAddress(expected.face.path.remote, peer)
  }
}

/** Where the peer really is, which the swarm shall see instead of the face on loopback. */
function remoteAddress(remote: Endpoint, peer: string): Multiaddr {
  return multiaddr(`/ip${familyOf(remote)}/${remote.address}/udp/${remote.port}/quic-v1/p2p/${peer}`)
}

function portOf(address: Multiaddr): number {
  return Number(address.getComponents().find((component) => component.name === 'udp')?.value)
}
