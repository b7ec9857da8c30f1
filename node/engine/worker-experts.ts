import { setImmediate as turn } from 'node:timers/promises'
import { Tensor } from 'onnxruntime-node'
import { jobMemory, type JobMemory } from './job-memory.ts'
import { Session } from './session.ts'
import type { ExpertRun, GraphSource } from './worker-messages.ts'

/** Jobs of up to this many rows reuse their input tensor. */
const REUSED_ROWS = 16
/** A graph with prepared weights has another output, which carries them. */
const OUTPUTS = ['y']
/** Whoever else needs the thread waits no longer than this and the run of one expert. */
const TURN_MS = 2

/** The experts of one model that this worker holds. */
export class WorkerExperts {
  readonly #hidden: number
  /** By layer, then expert. */
  readonly #sessions: Map<number, Session>[] = []
  readonly #inputs: { readonly numbers: Float32Array; readonly feeds: { readonly x: Tensor } }[] = []

  /** Made once: it would take as long as a run does. */
  #checkInput = new Float32Array(0)

  constructor(hidden: number) {
    this.#hidden = hidden
  }

  open(layer: number, expert: number, source: GraphSource): void {
    const session = new Session(source, OUTPUTS)
    const layerSessions = (this.#sessions[layer] ??= new Map())
    layerSessions.set(expert, session)
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
    const { y } = session.run({ x: new Tensor('float32', this.#checkInput.subarray(0, numbers), [rows, this.#hidden]) })
    return y!.data as Float32Array
  }

  /** Runs the picks of this worker's experts and writes their outputs; other picks belong to other workers. */
  async run(job: ExpertRun, block: SharedArrayBuffer): Promise<void> {
    const sessions = this.#sessions[job.layer]
    if (sessions === undefined) return
    const memory = jobMemory(block, job.rows, job.picks, this.#hidden)
    let turnedAt = performance.now()
    for (let first = 0, end = 0; first < job.picks; first = end) {
      const expert = memory.pickExpert[first]!
      for (end = first + 1; end < job.picks && memory.pickExpert[end] === expert;) end++
      const session = sessions.get(expert)
      if (session === undefined) continue
      if (performance.now() - turnedAt > TURN_MS) {
        await turn()
        turnedAt = performance.now()
      }
      const { y } = session.run(this.#gather(memory, first, end))
      memory.outputs.set(y!.data as Float32Array, first * this.#hidden)
    }
  }

  close(): void {
    for (const layer of this.#sessions.splice(0)) {
      for (const session of layer?.values() ?? []) session.release()
    }
  }

  #gather(memory: JobMemory, first: number, end: number): { readonly x: Tensor } {
    const hidden = this.#hidden
    const { numbers, feeds } = this.#input(end - first)
    for (let pick = first; pick < end; pick++) {
      const from = memory.pickRow[pick]! * hidden
      numbers.set(memory.x.subarray(from, from + hidden), (pick - first) * hidden)
    }
    return feeds
  }

  #input(rows: number): { readonly numbers: Float32Array; readonly feeds: { readonly x: Tensor } } {
    const reused = this.#inputs[rows]
    if (reused !== undefined) return reused
    const numbers = new Float32Array(rows * this.#hidden)
    const input = { numbers, feeds: { x: new Tensor('float32', numbers, [rows, this.#hidden]) } }
    if (rows <= REUSED_ROWS) this.#inputs[rows] = input
    return input
  }
}
