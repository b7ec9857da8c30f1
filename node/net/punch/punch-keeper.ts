import type { Connection } from '@libp2p/interface'
import { linkKind } from '../link-kind.ts'
import type { Mesh } from '../mesh.ts'
import type { Puncher } from './puncher.ts'

export interface PunchKeeperComponents {
  readonly mesh: Pick<Mesh, 'getConnections' | 'addEventListener' | 'removeEventListener'>
  readonly puncher: Pick<Puncher, 'punch' | 'isPunching'>
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** Until the next try, after so many failed ones: networks change, and routers forget what stood in the way. The last one stays. */
const RETRY_MS = [3_000, 15_000, 60_000, 300_000] as const
/** After a direct link broke while the relayed one stands. */
const AGAIN_MS = 1_000
/** Identification and the first reflectors come first. */
const FIRST_MS = 50

/** Turns relayed links into direct ones: at once, and again and again while a peer is reached through a relay only. */
export class PunchKeeper {
  readonly #components: PunchKeeperComponents
  readonly #timers = new Map<string, NodeJS.Timeout>()
  readonly #failures = new Map<string, number>()
  #stopping = new AbortController()

  constructor(components: PunchKeeperComponents) {
    this.#components = components
  }

  start(): void {
    this.#stopping = new AbortController()
    const { mesh } = this.#components
    mesh.addEventListener('connection:open', this.#onOpen)
    mesh.addEventListener('connection:close', this.#onClose)
    for (const connection of mesh.getConnections()) this.#consider(connection, FIRST_MS)
  }

  stop(): void {
    const { mesh } = this.#components
    mesh.removeEventListener('connection:open', this.#onOpen)
    mesh.removeEventListener('connection:close', this.#onClose)
    this.#stopping.abort(new Error('the node is stopping'))
    for (const timer of this.#timers.values()) clearTimeout(timer)
    this.#timers.clear()
    this.#failures.clear()
  }

  readonly #onOpen = (event: CustomEvent<Connection>): void => this.#consider(event.detail, FIRST_MS)

  readonly #onClose = (event: CustomEvent<Connection>): void => {
    const peer = event.detail.remotePeer
    const relayed = this.#relayed(peer.toString())
    if (relayed !== undefined) this.#consider(relayed, AGAIN_MS)
    else this.#forget(peer.toString())
  }

  /** The side that dialled over the relay makes the offer, so that not both do. */
  #consider(connection: Connection, delayMs: number): void {
    const peer = connection.remotePeer.toString()
    if (connection.direction !== 'outbound' || linkKind(connection) !== 'relay' || this.#timers.has(peer)) return
    this.#timers.set(
      peer,
      setTimeout(() => void this.#try(peer), delayMs),
    )
  }

  async #try(peer: string): Promise<void> {
    const { puncher, log } = this.#components
    const relayed = this.#relayed(peer)
    this.#timers.delete(peer)
    if (relayed === undefined || this.#stopping.signal.aborted) return
    if (!puncher.isPunching(peer)) {
      try {
        const opened = await puncher.punch(relayed, this.#stopping.signal)
        if (opened.length > 0) return void this.#failures.delete(peer)
        log('punch.blocked', { peer })
      } catch (error) {
        log('punch.failed', { peer, reason: (error as Error).message })
      }
    }
    const failures = this.#failures.get(peer) ?? 0
    this.#failures.set(peer, failures + 1)
    const next = this.#relayed(peer)
    if (next !== undefined && !this.#stopping.signal.aborted) this.#consider(next, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]!)
  }

  #forget(peer: string): void {
    clearTimeout(this.#timers.get(peer))
    this.#timers.delete(peer)
    this.#failures.delete(peer)
  }

  /** The relayed connection that this node dialled to a peer to which it has no other. */
  #relayed(peer: string): Connection | undefined {
    const open = this.#components.mesh
      .getConnections()
      .filter((connection) => connection.status === 'open' && connection.remotePeer.toString() === peer)
    return open.every((connection) => linkKind(connection) === 'relay') ? open.find((one) => one.direction === 'outbound') : undefined
  }
}
