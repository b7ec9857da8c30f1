import type { Connection } from '@libp2p/interface'
import { isPrivate } from '@libp2p/utils'
import type { Endpoint, Reflector, Transport } from '../../../protocols/punch/index.ts'

/** Machines whose reflectors are remembered; two that do not know each other would do. */
const MAX_HOSTS = 8
/** Machines asked at once: a liar must stand against two others. */
const HOSTS_PER_USE = 3
const PORTS_PER_HOST = 2

interface Entry {
  readonly address: string
  readonly reflectors: readonly Reflector[]
}

/** The reflectors of the public peers that this node is connected to. */
export class ReflectorDirectory {
  readonly #ask: (connection: Connection) => Promise<readonly Reflector[]>
  readonly #hosts = new Map<string, Entry>()
  readonly #asking = new Set<string>()

  constructor(init: { ask: (connection: Connection) => Promise<readonly Reflector[]> }) {
    this.#ask = init.ask
  }

  get size(): number {
    return this.#hosts.size
  }

  /** Asks the peer at the other end, if it may be of use: a public address that this node itself dialled. Rejects when the peer does not answer. */
  async learn(connection: Connection): Promise<void> {
    const peer = connection.remotePeer.toString()
    const address = publicAddressOf(connection)
    if (address === null || this.#hosts.has(peer) || this.#asking.has(peer) || this.#hosts.size + this.#asking.size >= MAX_HOSTS) return
    this.#asking.add(peer)
    try {
      const reflectors = await this.#ask(connection)
      if (reflectors.length > 0) this.#hosts.set(peer, { address, reflectors })
    } finally {
      this.#asking.delete(peer)
    }
  }

  forget(peer: string): void {
    this.#hosts.delete(peer)
  }

  /** Reflectors of several machines. */
  pick(transport: Transport): Endpoint[] {
    const byAddress = new Map([...this.#hosts.values()].map((entry) => [entry.address, entry]))
    return [...byAddress.values()].slice(0, HOSTS_PER_USE).flatMap(({ address, reflectors }) =>
      reflectors
        .filter((reflector) => reflector.transport === transport)
        .slice(0, PORTS_PER_HOST)
        .map(({ port }) => ({ address, port })),
    )
  }
}

function publicAddressOf(connection: Connection): string | null {
  const [host, ...rest] = connection.remoteAddr.getComponents()
  if (connection.direction !== 'outbound' || host?.value === undefined || (host.name !== 'ip4' && host.name !== 'ip6')) return null
  if (isPrivate(connection.remoteAddr) || rest.some((component) => component.name === 'p2p-circuit')) return null
  return host.value
}
