import { setTimeout as delay } from 'node:timers/promises'
import type { ShardEntry } from '../model/manifest.ts'
import { shardsOf } from './holdings-service.ts'
import type { Hosting } from './hosting.ts'
import { ANNOUNCED } from './hosting.ts'
import type { OtherHosts } from './other-hosts.ts'

export interface HandoverComponents {
  readonly hosting: Hosting
  readonly others: OtherHosts
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

export interface HandoverInit {
  /** Longest wait for others to take up what only this node serves. */
  readonly timeoutMs: number
}

export interface GiveUpOptions {
  /** Other hosts that every expert of the shard must have first. */
  readonly need: number
  readonly signal: AbortSignal
}

interface HeldShard {
  readonly model: string
  readonly shard: ShardEntry
}

/** In this time others hear what this node says, and it what they say at the same time: two hosts that rely on one another must not both go. */
const SETTLE_MS = 750
const POLL_MS = 100

/**
 * Gives up shards without leaving the swarm without them: says first that they are leaving, whereupon nodes that place by themselves take
 * up what too few others serve, and lets go of each once enough do.
 */
export class Handover {
  readonly #components: HandoverComponents
  readonly #timeoutMs: number
  #isLeaving = false
  #room: { readonly at: number; readonly bytes: number } | null = null

  constructor(components: HandoverComponents, init: HandoverInit) {
    this.#components = components
    this.#timeoutMs = init.timeoutMs
  }

  /** Bytes of the largest shard that some other node could take up: one that places by itself, beside what only it serves. */
  room(): number {
    const { hosting, others } = this.#components
    const rooms = new Map(others.takers())
    if (rooms.size === 0) return 0
    for (const model of hosting.models) {
      for (const shard of shardsOf(model)) {
        const [host, ...more] = others.of(model.id, shard)
        const room = host === undefined || more.length > 0 ? undefined : rooms.get(host)
        if (room !== undefined) rooms.set(host!, room - shard.bytes)
      }
    }
    return Math.max(0, ...rooms.values())
  }

  /** True once the shard is given up; false when it stays, because not enough others serve it and nobody takes it up in time. */
  async giveUp(model: string, shard: ShardEntry, { need, signal }: GiveUpOptions): Promise<boolean> {
    const { hosting, others } = this.#components
    const isServed = (): boolean => others.of(model, shard).length >= need
    const canBeTaken = (): boolean => this.#recentRoom() >= shard.bytes
    if (!isServed() && !canBeTaken()) return false
    const cids = new Set([shard.cid])
    hosting.leave(model, cids)
    if (await this.#until([{ model, shard }], isServed, canBeTaken, signal)) {
      await hosting.release(model, shard)
      return true
    }
    // Nothing stays of a node that goes.
    if (!this.#isLeaving) hosting.stay(model, cids)
    return false
  }

  /**
   * Says that this node leaves, and resolves once others serve all that it does, nobody could take up what they don't, the time is over, or
   * the signal is aborted. What it holds is served until the node stops.
   */
  async leave(signal: AbortSignal): Promise<void> {
    const { hosting, others, log } = this.#components
    const held: HeldShard[] = hosting.models.flatMap(({ id }) => hosting.shards(id, ...ANNOUNCED).map((shard) => ({ model: id, shard })))
    const alone = (): HeldShard[] => held.filter(({ model, shard }) => others.of(model, shard).length === 0)
    const canBeTaken = (): boolean => {
      const room = this.#recentRoom()
      return alone().some(({ shard }) => shard.bytes <= room)
    }
    const isServed = (): boolean => alone().length === 0
    if (held.length === 0 || this.#timeoutMs === 0 || (!isServed() && !canBeTaken())) return
    this.#isLeaving = true
    const startedAt = performance.now()
    log('handover.begun', { shards: held.length, alone: alone().length })
    for (const { id } of hosting.models) hosting.leave(id, new Set(held.map(({ shard }) => shard.cid)))
    await this.#until(held, isServed, canBeTaken, signal)
    log('handover.ended', { alone: alone().length, ms: Math.round(performance.now() - startedAt) })
  }

  /** {@link room}, which looks at every shard, as it was within the last poll: hundreds of shards may wait at once. */
  #recentRoom(): number {
    const now = performance.now()
    if (this.#room === null || now - this.#room.at > POLL_MS) this.#room = { at: now, bytes: this.room() }
    return this.#room.bytes
  }

  /** Whether enough others serve it before nobody can take it up, the time is over, or the signal is aborted. */
  async #until(held: readonly HeldShard[], isServed: () => boolean, canBeTaken: () => boolean, signal: AbortSignal): Promise<boolean> {
    const { others } = this.#components
    const deadline = performance.now() + this.#timeoutMs
    const pause = (ms: number): Promise<void> => delay(ms, undefined, { signal }).catch(() => {})
    for (await pause(SETTLE_MS); ; await pause(POLL_MS)) {
      if (isServed()) {
        await others.verify(held)
        if (isServed()) return true
      }
      if (signal.aborted || performance.now() > deadline || !canBeTaken()) return false
    }
  }
}
