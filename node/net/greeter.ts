import type { Libp2p, PeerInfo } from '@libp2p/interface'

/** Connections up to which every discovered peer is dialled; beyond it the links that queries need are enough. */
const ENOUGH_CONNECTIONS = 64
const CONCURRENT_DIALS = 8
const DIAL_TIMEOUT_MS = 15_000

/** Dials peers that discovery (mDNS, bootstrap, DHT) names: libp2p itself only takes note of them. */
export class Greeter {
  readonly #mesh: Pick<Libp2p, 'dial' | 'getConnections' | 'addEventListener' | 'removeEventListener'>
  readonly #log: (event: string, fields: Record<string, unknown>) => void
  readonly #dialling = new Set<string>()
  #stopping = new AbortController()

  constructor(init: {
    mesh: Pick<Libp2p, 'dial' | 'getConnections' | 'addEventListener' | 'removeEventListener'>
    log: (event: string, fields: Record<string, unknown>) => void
  }) {
    this.#mesh = init.mesh
    this.#log = init.log
  }

  start(): void {
    this.#stopping = new AbortController()
    this.#mesh.addEventListener('peer:discovery', this.#onDiscovery)
  }

  stop(): void {
    this.#mesh.removeEventListener('peer:discovery', this.#onDiscovery)
    this.#stopping.abort(new Error('the node is stopping'))
  }

  readonly #onDiscovery = (event: CustomEvent<PeerInfo>): void => {
    const { id } = event.detail
    const peer = id.toString()
    if (this.#dialling.has(peer) || this.#dialling.size >= CONCURRENT_DIALS) return
    if (this.#mesh.getConnections(id).length > 0 || this.#mesh.getConnections().length >= ENOUGH_CONNECTIONS) return
    this.#dialling.add(peer)
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)])
    this.#mesh
      .dial(id, { signal })
      .catch((error: Error) => this.#log('peer.unreachable', { peer, reason: error.message }))
      .finally(() => this.#dialling.delete(peer))
  }
}
