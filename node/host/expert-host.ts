import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises'
import type { ExpertReply, PriorityLevel, ServedCall } from '../../protocols/expert/index.ts'
import { PeerRefusedError } from '../../protocols/wire/errors.ts'
import type { Experts } from '../engine/engine.ts'

/** A model of which this node serves experts. */
export interface HostedModel {
  /** SHA-256 digest of the manifest, hex: its name on the wire. */
  readonly digest: string
  readonly hiddenSize: number
  readonly experts: Experts
}

/** Rows for experts of this node, whoever asks. */
export interface HostJob {
  readonly layer: number
  readonly priority: PriorityLevel
  readonly rows: number
  /** [rows, hidden] */
  readonly x: Float32Array
  readonly pickRow: Uint16Array
  readonly pickExpert: Uint16Array
  /** Where given, each row's weighted sum is wanted instead of each pick's output. */
  readonly pickWeight?: Float32Array
}

export interface HostResult {
  /** [rows, hidden], or [picks, hidden] without weights. */
  readonly outputs: Float32Array
  readonly queueUs: number
  readonly computeUs: number
}

export interface ExpertHostInit {
  /** Jobs given to the engine at once; the rest wait here, most urgent first. */
  readonly concurrency: number
}

/** Jobs that wait, and the bytes of their rows. */
interface Room {
  jobs: number
  bytes: number
}

/** What may wait, over all peers, before calls are refused as busy. */
const MAX_WAITING: Readonly<Room> = { jobs: 1024, bytes: 256 * 1024 * 1024 }
/** What one peer may fill of it. */
const MAX_WAITING_PER_PEER: Readonly<Room> = { jobs: 256, bytes: 64 * 1024 * 1024 }
const PRIORITIES = 3
/** A driver's tokens come closer together than this. */
const BUSY_FOR_MS = 500
/** Jobs of this node's own driver wait under this name. */
const OWN_DRIVER = ''

/** A host that served within this time has drivers that may be about to call. */
const IN_USE_MS = 10_000
/** A host that leaves waits until no call came for so long, and no longer than that. */
const QUIET_MS = 400
const MAX_DRAIN_MS = 4_000
const DRAIN_POLL_MS = 20

interface Waiting {
  readonly start: () => void
  readonly peer: string
  readonly bytes: number
}

/** How many calls were served, refused and failed, and how long they took; for the ledger and metrics. */
export interface HostCounts {
  served: number
  busy: number
  failed: number
  rows: number
}

/** Runs experts for peers and for this node's own driver: admission, priorities, deadlines. Holds no state of any query. */
export class ExpertHost {
  readonly #models = new Map<string, HostedModel>()
  readonly #concurrency: number
  readonly #queues: Waiting[][] = Array.from({ length: PRIORITIES }, () => [])
  readonly #waiting: Room = { jobs: 0, bytes: 0 }
  readonly #waitingOf = new Map<string, Room>()
  #running = 0
  #lastServedAt = -Infinity
  #averageUs = 0
  /** Who called last, and until when it counts that somebody else did before. */
  #latestCaller: string | null = null
  #sharedUntil = 0
  /** Whether a call was begun in this turn of the event loop without waiting for its end. */
  #hasBegun = false
  readonly counts: HostCounts = { served: 0, busy: 0, failed: 0, rows: 0 }
  /** Hears of each served call: queue and compute time in microseconds. */
  onServed: ((queueUs: number, computeUs: number) => void) | null = null

  constructor(init: ExpertHostInit) {
    this.#concurrency = init.concurrency
  }

  /** Whether a call is being run, or was within the last moment: then another is likely to come. */
  get isBusy(): boolean {
    return this.#running > 0 || performance.now() - this.#lastServedAt < BUSY_FOR_MS
  }

  add(model: HostedModel): void {
    this.#models.set(model.digest, model)
  }

  /** Resolves once no call came for a moment, or after a while: peers that heard a goodbye send none any more. */
  async drain(): Promise<void> {
    const startedAt = performance.now()
    if (startedAt - this.#lastServedAt > IN_USE_MS) return
    const isQuiet = (): boolean => this.#running === 0 && performance.now() - Math.max(startedAt, this.#lastServedAt) > QUIET_MS
    while (!isQuiet() && performance.now() - startedAt < MAX_DRAIN_MS) await delay(DRAIN_POLL_MS)
  }

  /** Answers a peer's call; never rejects for what a peer may send. */
  async serve(call: ServedCall): Promise<ExpertReply> {
    const model = this.#models.get(call.model)
    const missing = missingOf(call, model)
    if (model === undefined || missing.length > 0) return { status: 'notHeld', experts: missing }
    if (call.width !== model.hiddenSize) return { status: 'malformed' }
    const waitingOfPeer = this.#waitingOf.get(call.peer)
    if (isFull(this.#waiting, MAX_WAITING) || (waitingOfPeer !== undefined && isFull(waitingOfPeer, MAX_WAITING_PER_PEER))) {
      this.counts.busy++
      return { status: 'busy', retryAfterMs: Math.ceil((this.#waiting.jobs * this.#averageUs) / this.#concurrency / 1000) + 1 }
    }
    const mayBegin = !this.#noteCaller(call.peer, call.receivedAt) && !this.#hasBegun
    const turn = this.#turn(call, call.peer)
    if (turn !== null) await turn
    else if (mayBegin) await this.#beginAfterMessage()
    // Other calls, and cancellations, that came in with this one are read first: computing may take this thread.
    else await nextTurn()
    const startedAt = performance.now()
    try {
      if (call.isCancelled()) return { status: 'cancelled' }
      if (startedAt - call.receivedAt > call.deadlineMs) return { status: 'deadline' }
      // A shard may have been given up while the call waited.
      const gone = missingOf(call, model)
      if (gone.length > 0) return { status: 'notHeld', experts: gone }
      const { layer, x, rows: given, pickRow, pickExpert, pickWeight } = call
      const data = await model.experts.run({ layer, x, rows: given, pickRow, pickExpert, ...(call.combine && { pickWeight }) })
      const computeUs = (performance.now() - startedAt) * 1000
      const queueUs = (startedAt - call.receivedAt) * 1000
      this.#averageUs += 0.1 * (computeUs - this.#averageUs)
      this.#lastServedAt = performance.now()
      this.counts.served++
      this.counts.rows += call.rows
      // Once the answer is on its way.
      setImmediate(() => this.onServed?.(queueUs, computeUs))
      const rows = call.combine ? call.rows : call.pickRow.length
      return { status: 'ok', rowType: call.rowType, rows, width: call.width, data, queueUs, computeUs }
    } catch (error) {
      this.counts.failed++
      throw error
    } finally {
      this.#next()
    }
  }

  /** Runs a job of this node's own driver, in the same queue as everybody's. Throws `PeerRefusedError` (`notHeld`) for experts that were given up meanwhile, or what the engine throws. */
  async compute(digest: string, job: HostJob): Promise<HostResult> {
    const model = this.#models.get(digest)
    if (model === undefined) throw new Error(`model ${digest} is not hosted here`)
    const askedAt = performance.now()
    this.#noteCaller(OWN_DRIVER, askedAt)
    const turn = this.#turn(job, OWN_DRIVER)
    if (turn !== null) await turn
    // What the driver asks of other hosts goes out before this thread computes.
    else await nextTurn()
    const startedAt = performance.now()
    try {
      const gone = missingOf(job, model)
      if (gone.length > 0) throw new PeerRefusedError('notHeld', 'experts were given up here while their call waited', { experts: gone })
      const outputs = await model.experts.run(job)
      return { outputs, queueUs: (startedAt - askedAt) * 1000, computeUs: (performance.now() - startedAt) * 1000 }
    } finally {
      this.#next()
    }
  }

  /** Notes who calls. True when the caller has changed within the last moment, be it from nobody. */
  #noteCaller(caller: string, at: number): boolean {
    if (caller !== this.#latestCaller) {
      this.#latestCaller = caller
      this.#sharedUntil = at + BUSY_FOR_MS
    }
    return at < this.#sharedUntil
  }

  /**
   * Resolves once the message that brought a call has been read, without a turn of the event loop. For one call in each turn, or a peer that
   * sends many would keep all others waiting.
   */
  #beginAfterMessage(): Promise<void> {
    this.#hasBegun = true
    setImmediate(() => (this.#hasBegun = false))
    return Promise.resolve()
  }

  /** null when the job may start at once. */
  #turn({ priority, x }: HostJob, peer: string): Promise<void> | null {
    if (this.#running < this.#concurrency) {
      this.#running++
      return null
    }
    let ofPeer = this.#waitingOf.get(peer)
    if (ofPeer === undefined) this.#waitingOf.set(peer, (ofPeer = { jobs: 0, bytes: 0 }))
    for (const room of [this.#waiting, ofPeer]) {
      room.jobs++
      room.bytes += x.byteLength
    }
    return new Promise((resolve) => this.#queues[priority]!.push({ start: resolve, peer, bytes: x.byteLength }))
  }

  /** Begins the most urgent of what has come in by the next turn. */
  #next(): void {
    if (this.#waiting.jobs === 0) this.#running--
    else setImmediate(() => this.#startNext())
  }

  #startNext(): void {
    const next = this.#queues.find((queue) => queue.length > 0)?.shift()
    if (next === undefined) {
      this.#running--
      return
    }
    const ofPeer = this.#waitingOf.get(next.peer)!
    for (const room of [this.#waiting, ofPeer]) {
      room.jobs--
      room.bytes -= next.bytes
    }
    if (ofPeer.jobs === 0) this.#waitingOf.delete(next.peer)
    next.start()
  }
}

/** Experts that are picked and not open. */
function missingOf({ layer, pickExpert }: Pick<HostJob, 'layer' | 'pickExpert'>, model: HostedModel | undefined): number[] {
  let last = -1
  const missing: number[] = []
  for (const expert of pickExpert) {
    if (expert === last) continue
    last = expert
    if (model === undefined || !model.experts.has(layer, expert)) missing.push(expert)
  }
  return missing
}

function isFull(room: Readonly<Room>, limit: Readonly<Room>): boolean {
  return room.jobs >= limit.jobs || room.bytes >= limit.bytes
}
