import { cacheShape } from '../model/model-config.ts'
import type { ModelConfig } from '../model/model-config.ts'
import { freeMemory } from '../../protocols/wire/free-memory.ts'
import { Operand, Operands } from './operands.ts'
import type { PassMemory } from './pass-memory.ts'

/** What the graphs of one layer read and write. */
interface Ends {
  readonly feeds: Operands
  readonly fetches: Operands
}

/** What the runs of one trunk pass read and write, for all its layers (see `graph/layer-graph.ts`); the caller's part is its shared memory. */
export class PassOperands {
  readonly memory: PassMemory
  /** [rows, hidden]: residual stream after the last layer */
  readonly h: Float32Array
  /** [rows, rope.dim / 2] */
  readonly cos: Float32Array
  readonly sin: Float32Array
  /** [rows, heads * width] */
  readonly queries: Float32Array
  readonly attention: Float32Array
  /** Keys and, unless they are the keys, values of the rows: [rows, cache heads * width] each */
  readonly keysAndValues: readonly Float32Array[]
  readonly sinks: Operand | null
  readonly before: Ends
  readonly after: Ends
  readonly afterDense: Ends
  readonly #shared: Ends
  readonly #sum: Float32Array
  readonly #own: readonly Operand[]
  readonly #lent: readonly Operand[]

  constructor(config: ModelConfig, memory: PassMemory, rows: number) {
    const { hiddenSize, attention, rope, expertsPerToken } = config
    const cache = cacheShape(config)
    const own: Operand[] = []
    const make = (shape: readonly number[]): [Float32Array, Operand] => {
      const numbers = new Float32Array(shape.reduce((product, d) => product * d, 1))
      const operand = new Operand(numbers, shape)
      own.push(operand)
      return [numbers, operand]
    }
    const wide = [1, rows, hiddenSize]
    const moe = new Operand(memory.moe, wide)
    const x = new Operand(memory.x, wide)
    const weights = new Operand(memory.weights, [1, rows, expertsPerToken])
    const experts = new Operand(memory.experts, [1, rows, expertsPerToken])
    const [h, hOperand] = make(wide)
    const [, h1] = make(wide)
    const [sum, h3] = make(wide)
    const [cos, cosOperand] = make([rows, rope.dim / 2])
    const [sin, sinOperand] = make([rows, rope.dim / 2])
    const [queries, queriesOperand] = make([1, rows, attention.heads * cache.width])
    const [attended, attentionOperand] = make([1, rows, attention.heads * cache.width])
    const [keys, newK] = make([1, rows, cache.heads * cache.width])
    const values = cache.separateValues ? make([1, rows, cache.heads * cache.width]) : null
    const sinks = attention.kind === 'grouped' && attention.sinks ? make([attention.heads])[1] : null
    this.memory = memory
    this.h = h
    this.cos = cos
    this.sin = sin
    this.queries = queries
    this.attention = attended
    this.keysAndValues = values === null ? [keys] : [keys, values[0]]
    this.sinks = sinks
    this.before = {
      feeds: new Operands({ h: hOperand, moe, cos: cosOperand, sin: sinOperand }),
      fetches: new Operands({
        h1,
        queries: queriesOperand,
        new_k: newK,
        ...(values !== null && { new_v: values[1] }),
        ...(sinks !== null && { sink_scores: sinks }),
      }),
    }
    const feeds = new Operands({ h1, attention: attentionOperand })
    this.after = { feeds, fetches: new Operands({ h2: hOperand, x, weights, experts }) }
    this.afterDense = { feeds, fetches: new Operands({ h2: hOperand }) }
    this.#shared = { feeds: new Operands({ x, h2: hOperand }), fetches: new Operands({ h3 }) }
    this.#sum = sum
    this.#own = own
    this.#lent = [moe, x, weights, experts]
  }

  /** Adds the shared expert's output to `h`. */
  addShared(run: (ends: Ends) => void): void {
    run(this.#shared)
    this.h.set(this.#sum)
  }

  free(): void {
    for (const operand of [...this.#own, ...this.#lent]) operand.free()
    for (const { numbers } of this.#own) freeMemory(numbers)
  }
}
