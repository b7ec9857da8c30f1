import type { Reflector } from '../../../protocols/punch/index.ts'
import { TcpReflector } from './tcp-reflector.ts'
import { UdpSocket } from './udp-socket.ts'

/**
 * The ports on which this node tells others how it sees them, opened when the first peer asks. A second UDP port tells a router that maps
 * by destination port even where this node is the only reflector.
 */
export class OwnReflectors {
  readonly #port: number
  readonly #shared: () => Promise<readonly UdpSocket[]>
  #opening: Promise<readonly Reflector[]> | null = null
  #second: UdpSocket | null = null
  #tcp: TcpReflector | null = null

  /** `shared`: the sockets that punches use, which reflect too; `port`: where TCP is reflected, and UDP one above. */
  constructor(init: { port: number; shared: () => Promise<readonly UdpSocket[]> }) {
    this.#port = init.port
    this.#shared = init.shared
  }

  open(): Promise<readonly Reflector[]> {
    this.#opening ??= this.#open()
    return this.#opening
  }

  async close(): Promise<void> {
    await this.#opening?.catch(() => {})
    this.#second?.close()
    this.#tcp?.close()
    this.#opening = null
  }

  async #open(): Promise<readonly Reflector[]> {
    const first = (await this.#shared()).find((socket) => socket.family === 4)
    this.#second = await UdpSocket.open(4, this.#port === 0 ? 0 : this.#port + 1)
    this.#tcp = await TcpReflector.open(this.#port)
    return [
      ...(first === undefined ? [] : [{ transport: 'udp' as const, port: first.port }]),
      { transport: 'udp', port: this.#second.port },
      { transport: 'tcp', port: this.#tcp.port },
    ]
  }
}
