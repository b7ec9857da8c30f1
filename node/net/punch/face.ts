import { createSocket } from 'node:dgram'
import type { Socket } from 'node:dgram'
import type { Endpoint } from '../../../protocols/punch/index.ts'
import type { UdpSocket } from './udp-socket.ts'

/** A way through the routers: what leaves `socket` for `remote` arrives at the peer. */
export interface UdpPath {
  readonly socket: UdpSocket
  readonly remote: Endpoint
  /** True for a socket that no other path uses: it is closed with this one. */
  readonly isOwn: boolean
}

const LOOPBACK = '127.0.0.1'
const MAX_EARLY_PACKETS = 16
const BUFFER_BYTES = 4 * 1024 * 1024

/**
 * A local port behind which the peer seems to be: QUIC on this machine talks to it, its packets travel over the punched path. The QUIC
 * library opens sockets of its own, so they can't be the one that was punched.
 */
export class Face {
  readonly path: UdpPath
  readonly port: number
  readonly #socket: Socket
  readonly #release: () => void
  /** Where QUIC listens on this machine, once known. */
  #local: number | null
  #isClosed = false

  private constructor(path: UdpPath, socket: Socket, local: number | null, early: readonly Uint8Array[]) {
    this.path = path
    this.port = socket.address().port
    this.#socket = socket
    this.#local = local
    socket.on('error', () => {})
    socket.on('message', (packet, { port }) => {
      this.#local ??= port
      if (port === this.#local) path.socket.send(packet, path.remote)
    })
    const toLocal = (packet: Uint8Array): void => {
      if (this.#local !== null && !this.#isClosed) socket.send(packet, this.#local, LOOPBACK, () => {})
    }
    this.#release = path.socket.carry(path.remote, toLocal)
    for (const packet of early) toLocal(packet)
  }

  /** `local`: the port of the QUIC listener that the peer shall reach; null for a face that a QUIC client of this machine dials. */
  static async open(path: UdpPath, local: number | null): Promise<Face> {
    // A client that is faster than this socket would repeat its first packet only after a second.
    const early: Uint8Array[] = []
    path.socket.carry(path.remote, (packet) => {
      if (early.length < MAX_EARLY_PACKETS) early.push(packet)
    })
    const socket = createSocket({
      type: 'udp4',
      recvBufferSize: BUFFER_BYTES,
      sendBufferSize: BUFFER_BYTES,
      lookup: (host, _, done) => done(null, host, 4),
    })
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.bind(0, LOOPBACK, resolve)
    })
    socket.removeAllListeners('error')
    return new Face(path, socket, local, early)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#release()
    this.#socket.close()
    if (this.path.isOwn) this.path.socket.close()
  }
}
