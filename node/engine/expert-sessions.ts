import { setImmediate as turn } from 'node:timers/promises'
import { weightedSum } from './combine.ts'
import type { ExpertJob } from './engine.ts'
import { freeMemory } from '../../protocols/wire/free-memory.ts'
import { jobMemory } from './job-memory.ts'
import { NativeSemaphore } from './native-semaphore.ts'
import { Operand, Operands } from './operands.ts'
import type { Picks } from './picks.ts'
import type { Pointer } from './ort-api.ts'
import { borrowSession, openSession } from './session.ts'
import type { Session } from './session.ts'
import type { ExpertRun, GraphSource } from './worker-messages.ts'

/** Runs of up to this many rows reuse their arrays. */
const REUSED_ROWS = 16
/** A thread that waits for the others would rather share its operators with them than have fewer experts to itself. */
const EXPERTS_PER_THREAD = 2
/** Whoever else needs the thread waits no longer than this and the run of one expert. */
const TURN_MS = 2

/** Rows and picks of one layer. */
interface LayerJob extends Omit<Picks, 'pickWeight'> {
  readonly layer: number
  readonly rows: number
  /** [rows, hidden] */
  readonly x: Float32Array
}

/** Those from `first` to `end` are of one expert. */
interface ExpertPicks {
  readonly session: Session
  readonly first: number
  readonly end: number
}

/** Gets the outputs of the picks from `first` to `end`, and must not keep them. */
type TakeOutputs = (first: number, end: number, outputs: Float32Array) => void

/** What a run of an expert reads and writes: [rows, hidden] each. */
class ExpertOperands {
  readonly x: Float32Array
  readonly y: Float32Array
  readonly #operands: readonly Operand[]
  readonly #feeds: Operands
  readonly #fetches: Operands

  constructor(rows: number, hidden: number) {
    this.x = new Float32Array(rows * hidden)
    this.y = new Float32Array(rows * hidden)
    const [x, y] = [new Operand(this.x, [rows, hidden]), new Operand(this.y, [rows, hidden])]
    this.#operands = [x, y]
    this.#feeds = new Operands({ x })
    this.#fetches = new Operands({ y })
  }

  run(session: Session): void {
    session.run(this.#feeds, this.#fetches)
  }

  /** What `y` then holds is known once `done` is counted up: {@link finish}. */
  runElsewhere(session: Session, done: NativeSemaphore): void {
    this.y[0] = Number.NaN
    session.runElsewhere!(this.#feeds, this.#fetches, done)
  }

  /** Nobody says why a run elsewhere went wrong: it is done again here. */
  finish(session: Session): void {
    if (Number.isNaN(this.y[0])) this.run(session)
  }

  free(): void {
    for (const operand of this.#operands) {
      operand.free()
      freeMemory(operand.numbers)
    }
  }
}

/** The experts of one model that this thread opened or borrowed. */
export class ExpertSessions {
  readonly #hidden: number
  /** That compute, this one included. */
  readonly #threads: number
  readonly #done: NativeSemaphore | null
  /** By layer, then expert. */
  readonly #sessions: Map<number, Session>[] = []
  /** By rows. */
  readonly #reused: ExpertOperands[] = []
  /** Of experts that compute one row at the same time. */
  readonly #together: ExpertOperands[] = []

  /** Made once: it would take as long as a run does. */
  #checkInput = new Float32Array(0)

  /** `threads`: how many all sessions share, 1 where they don't. */
  constructor(hidden: number, threads: number) {
    this.#hidden = hidden
    this.#threads = threads
    this.#done = threads > 1 ? NativeSemaphore.create() : null
  }

  open(layer: number, expert: number, source: GraphSource): void {
    const layerSessions = (this.#sessions[layer] ??= new Map())
    layerSessions.set(expert, openSession(source))
  }

  /** Takes up an expert that another thread of this process has opened; it closes it after this. */
  borrow(layer: number, expert: number, pointer: Pointer): void {
    const layerSessions = (this.#sessions[layer] ??= new Map())
    layerSessions.set(expert, borrowSession(pointer))
  }

  /** Where the sessions of experts `first` to `last` are, 0 for those that are not here; null where other threads can't borrow them. */
  pointers(layer: number, first: number, last: number): BigUint64Array | null {
    const pointers = new BigUint64Array(last - first + 1)
    for (let expert = first; expert <= last; expert++) {
      const session = this.#sessions[layer]?.get(expert)
      if (session === undefined) continue
      if (session.pointer === null) return null
      pointers[expert - first] = session.pointer
    }
    return pointers
  }

  closeExpert(layer: number, expert: number): void {
    const session = this.#sessions[layer]?.get(expert)
    this.#sessions[layer]?.delete(expert)
    session?.release()
  }

  /** Output [rows, hidden] of the expert for the same input at any time. */
  check(layer: number, expert: number, rows: number): Float32Array {
    const numbers = rows * this.#hidden
    if (this.#checkInput.length < numbers) this.#checkInput = Float32Array.from({ length: numbers }, (_, i) => Math.sin(i))
    const session = this.#sessions[layer]?.get(expert)
    if (session === undefined) throw new Error(`expert ${expert} of layer ${layer} is not open`)
    const operands = this.#operands(rows)
    operands.x.set(this.#checkInput.subarray(0, numbers))
    operands.run(session)
    const output = operands.y.slice()
    this.#giveBack(operands, rows)
    return output
  }

  /** Whether all of these experts can be run. */
  hasAll(layer: number, experts: Int32Array | Uint16Array): boolean {
    const sessions = this.#sessions[layer]
    return sessions !== undefined && experts.every((expert) => sessions.has(expert))
  }

  /** Runs the picks of this thread's experts and writes their outputs; other picks belong to other threads. */
  async run({ layer, rows, picks }: ExpertRun, block: SharedArrayBuffer): Promise<void> {
    const memory = jobMemory(block, rows, picks, this.#hidden)
    await this.#run({ layer, rows, ...memory }, (first, _end, output) => memory.outputs.set(output, first * this.#hidden))
  }

  /** Runs the picks and adds their weighted outputs to `into` [rows, hidden], in their order. All experts must be here. */
  async add(job: LayerJob & Picks, into: Float32Array): Promise<void> {
    await this.#run(job, this.#adding(job, into))
  }

  /** The sums or outputs that the job wants, the caller's own, without a turn for others. All experts must be here. */
  runAtOnce(job: ExpertJob): Float32Array {
    const { rows, pickRow, pickWeight } = job
    const results = new Float32Array((pickWeight === undefined ? pickRow.length : rows) * this.#hidden)
    const take: TakeOutputs =
      pickWeight === undefined
        ? (first, _end, output) => results.set(output, first * this.#hidden)
        : this.#adding({ rows, pickRow, pickWeight }, results)
    const sessions = this.#sessions[job.layer]!
    if (!this.#runTogether(job, sessions, take)) for (const run of this.#expertRuns(job, sessions)) this.#runOne(job, run, take)
    return results
  }

  #adding({ rows, pickRow, pickWeight }: Omit<Picks, 'pickExpert'> & { readonly rows: number }, into: Float32Array): TakeOutputs {
    return (first, end, outputs) => weightedSum({ rows, width: this.#hidden, pickRow, pickWeight, first, end, outputs, into })
  }

  /** Runs expert after expert, or those of one row together. */
  async #run(job: LayerJob, take: TakeOutputs): Promise<void> {
    const sessions = this.#sessions[job.layer]
    if (sessions === undefined || this.#runTogether(job, sessions, take)) return
    let turnedAt = performance.now()
    for (const run of this.#expertRuns(job, sessions)) {
      if (performance.now() - turnedAt > TURN_MS) {
        await turn()
        turnedAt = performance.now()
      }
      this.#runOne(job, run, take)
    }
  }

  /** The picks of each expert that is here. */
  *#expertRuns({ pickExpert }: LayerJob, sessions: ReadonlyMap<number, Session>): Generator<ExpertPicks> {
    for (let first = 0, end = 0; first < pickExpert.length; first = end) {
      const expert = pickExpert[first]!
      for (end = first + 1; end < pickExpert.length && pickExpert[end] === expert;) end++
      const session = sessions.get(expert)
      if (session !== undefined) yield { session, first, end }
    }
  }

  #runOne(job: LayerJob, { session, first, end }: ExpertPicks, take: TakeOutputs): void {
    const operands = this.#operands(end - first)
    this.#gather(job, first, end, operands.x)
    operands.run(session)
    take(first, end, operands.y)
    this.#giveBack(operands, end - first)
  }

  /**
   * One row's experts, each computed by one thread, as many by each: the parts of their operators need not wait for each other.
   * False when they can't be.
   */
  #runTogether({ rows, x, pickExpert }: LayerJob, layer: ReadonlyMap<number, Session>, take: TakeOutputs): boolean {
    const done = this.#done
    if (rows !== 1 || pickExpert.length < EXPERTS_PER_THREAD * this.#threads) return false
    const sessions = Array.from(pickExpert, (expert) => layer.get(expert))
    if (done === null || !sessions.every((session) => session !== undefined && session.runElsewhere !== null)) return false
    const operands = sessions.map((_, i) => (this.#together[i] ??= new ExpertOperands(1, this.#hidden)))
    const own = Math.ceil(sessions.length / this.#threads)
    let begun = 0
    try {
      for (const [i, each] of operands.entries()) {
        each.x.set(x)
        if (i >= own) {
          each.runElsewhere(sessions[i]!, done)
          begun++
        }
      }
      for (let i = 0; i < own; i++) operands[i]!.run(sessions[i]!)
    } finally {
      done.waitFor(begun)
    }
    for (const [i, each] of operands.entries()) {
      if (i >= own) each.finish(sessions[i]!)
      take(i, i + 1, each.y)
    }
    return true
  }

  close(): void {
    for (const layer of this.#sessions.splice(0)) {
      for (const session of layer?.values() ?? []) session.release()
    }
    for (const operands of [...this.#reused.splice(0), ...this.#together.splice(0)]) operands?.free()
  }

  #gather({ x, pickRow }: LayerJob, first: number, end: number, into: Float32Array): void {
    const hidden = this.#hidden
    for (let pick = first; pick < end; pick++) {
      const from = pickRow[pick]! * hidden
      // The views of one row would take as long as the copies.
      into.set(x.length === hidden ? x : x.subarray(from, from + hidden), (pick - first) * hidden)
    }
  }

  #operands(rows: number): ExpertOperands {
    return this.#reused[rows] ?? new ExpertOperands(rows, this.#hidden)
  }

  #giveBack(operands: ExpertOperands, rows: number): void {
    if (rows <= REUSED_ROWS) this.#reused[rows] = operands
    else operands.free()
  }
}
