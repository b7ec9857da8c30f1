import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import type { RemoteInfo, Socket } from 'node:dgram'
import {
  bindingRequestOf,
  bindingResponseOf,
  encodeBindingRequest,
  encodeBindingResponse,
  probeOf,
  TRANSACTION_BYTES,
} from '../../../protocols/punch/index.ts'
import type { Endpoint } from '../../../protocols/punch/index.ts'

export type Family = 4 | 6

/** A burst of a whole congestion window must fit while the event loop is busy. */
const BUFFER_BYTES = 4 * 1024 * 1024
/** When a binding request is sent again, in milliseconds after the first; then it is given up. */
const REFLECT_AGAIN_MS = [200, 500]
const REFLECT_TIMEOUT_MS = 1_000
/** Binding requests answered per second: a reflector must be of no use to a flood with a forged sender. */
const MAX_REFLECTIONS_PER_SECOND = 500

export type ProbeListener = (kind: 'call' | 'echo', from: Endpoint, socket: UdpSocket) => void

/** A UDP socket that probes, binding requests and the QUIC packets of many peers share. */
export class UdpSocket {
  readonly family: Family
  readonly port: number
  readonly #socket: Socket
  readonly #reflections = new Map<string, (seen: Endpoint) => void>()
  readonly #probes = new Map<string, ProbeListener>()
  readonly #carried = new Map<string, (packet: Uint8Array) => void>()
  #reflected = 0
  #reflectedSince = 0
  #isClosed = false

  private constructor(family: Family, socket: Socket) {
    this.family = family
    this.port = socket.address().port
    this.#socket = socket
    socket.on('message', (packet, from) => this.#onPacket(packet, from))
    // What can't be sent is lost, as any datagram may be.
    socket.on('error', () => {})
  }

  /** Binds `port`, or any when it is taken or 0. Rejects when this machine lacks the family. */
  static async open(family: Family, port: number): Promise<UdpSocket> {
    try {
      return new UdpSocket(family, await bind(family, port))
    } catch (error) {
      if (port === 0) throw error
      return new UdpSocket(family, await bind(family, 0))
    }
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  send(packet: Uint8Array, to: Endpoint): void {
    if (!this.#isClosed) this.#socket.send(packet, to.port, to.address, () => {})
  }

  /** How the reflector sees this socket; null when it does not answer within a second. */
  async reflect(reflector: Endpoint): Promise<Endpoint | null> {
    const transaction = randomBytes(TRANSACTION_BYTES)
    const key = transaction.toString('hex')
    const request = encodeBindingRequest(transaction)
    const { promise, resolve } = Promise.withResolvers<Endpoint | null>()
    const timers = REFLECT_AGAIN_MS.map((ms) => setTimeout(() => this.send(request, reflector), ms))
    timers.push(setTimeout(() => resolve(null), REFLECT_TIMEOUT_MS))
    this.#reflections.set(key, resolve)
    this.send(request, reflector)
    try {
      return await promise
    } finally {
      for (const timer of timers) clearTimeout(timer)
      this.#reflections.delete(key)
    }
  }

  /** Hands probes with that token (hexadecimal) to the listener until the returned function is called. */
  watch(token: string, listener: ProbeListener): () => void {
    this.#probes.set(token, listener)
    return () => void this.#probes.delete(token)
  }

  /** Hands whatever else comes from the endpoint to the listener until the returned function is called. */
  carry(from: Endpoint, listener: (packet: Uint8Array) => void): () => void {
    const key = keyOf(from)
    this.#carried.set(key, listener)
    return () => {
      if (this.#carried.get(key) === listener) this.#carried.delete(key)
    }
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#socket.close()
  }

  #onPacket(packet: Uint8Array, from: RemoteInfo): void {
    // Nobody can be answered there; the sender is forged.
    if (from.port === 0) return
    const probe = probeOf(packet)
    if (probe !== null) return this.#probes.get(probe.token)?.(probe.kind, { address: from.address, port: from.port }, this)
    const response = bindingResponseOf(packet)
    if (response !== null) return this.#reflections.get(Buffer.from(response.transaction).toString('hex'))?.(response.seen)
    const request = bindingRequestOf(packet)
    if (request === null) return this.#carried.get(keyOf(from))?.(packet)
    if (this.#mayReflect()) this.send(encodeBindingResponse(request, { address: from.address, port: from.port }), from)
  }

  #mayReflect(): boolean {
    const now = performance.now()
    if (now - this.#reflectedSince > 1000) {
      this.#reflectedSince = now
      this.#reflected = 0
    }
    return ++this.#reflected <= MAX_REFLECTIONS_PER_SECOND
  }
}

function keyOf(endpoint: Endpoint): string {
  return `${endpoint.address} ${endpoint.port}`
}

function bind(family: Family, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket({
      type: family === 4 ? 'udp4' : 'udp6',
      ipv6Only: family === 6,
      recvBufferSize: BUFFER_BYTES,
      sendBufferSize: BUFFER_BYTES,
      // Addresses are never names here; Node would ask for each packet in a later turn.
      lookup: (host, _, done) => done(null, host, family),
    })
    socket.once('error', (error) => {
      socket.close()
      reject(error)
    })
    socket.bind(port, () => {
      socket.removeAllListeners('error')
      resolve(socket)
    })
  })
}
