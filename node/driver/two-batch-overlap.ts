import { RecentMedian } from '../router/recent-median.ts'

/** Tokens of each sequence that a slice of time is measured over. */
const SLICE_TOKENS = 8
/** Slices of which the median counts. */
const SLICES = 3
/** The way that seems slower is measured again in one of so many slices. */
const RETRY_SLICES = 32
/** Two passes must be this much faster than one: they call hosts twice as often. */
const MIN_GAIN = 1.05

/** Passes that are under way at once. */
type Ways = 1 | 2

/** What is known for about as many sequences. */
class Rates {
  /** Tokens per ms. */
  readonly #rates = { 1: new RecentMedian(SLICES), 2: new RecentMedian(SLICES) }
  readonly #slices = { 1: 0, 2: 0 }
  /** Slices measured or interrupted: one that never gets to its end must not be begun again and again. */
  #ended = 0

  add(ways: Ways, rate: number): void {
    this.#rates[ways].add(rate)
    this.#slices[ways]++
    this.#ended++
  }

  interrupted(): void {
    this.#ended++
  }

  /** How the next slice goes: each way in turn until both are known, then the better one, now and then the other. */
  next(): Ways {
    if (Math.min(this.#slices[1], this.#slices[2]) < SLICES) return this.#ended % 2 === 0 ? 1 : 2
    const better = this.#rates[2].value! > this.#rates[1].value! * MIN_GAIN ? 2 : 1
    if (this.#ended % RETRY_SLICES !== 0) return better
    return better === 1 ? 2 : 1
  }
}

interface Slice {
  readonly ways: Ways
  readonly rates: Rates
  /** null until its first pass has ended: what came before went another way. */
  since: number | null
  tokens: number
}

/**
 * Whether the queries that decode go through the layers in one pass or in two, so that one half's attention is computed while the other
 * half's experts are (two-batch overlap: DeepSeek-V3 technical report, 3.4; SGLang). Two gain where attention and experts are computed by
 * different machines or threads; one gains where both use the same, since each expert is then read once for all. It is measured which.
 */
export class TwoBatchOverlap {
  /** By the power of two of the number of sequences. */
  readonly #rates = new Map<number, Rates>()
  #slice: Slice | null = null

  /** Passes that so many sequences are divided into. */
  ways(sequences: number): Ways {
    if (sequences < 2) return 1
    const rates = this.#ratesOf(sequences)
    if (this.#slice?.rates !== rates) this.#slice = { ways: rates.next(), rates, since: null, tokens: 0 }
    return this.#slice.ways
  }

  /** Hears that a pass gave one token to each of `tokens` of the `sequences`; `now` in ms. */
  took(tokens: number, sequences: number, now: number): void {
    const slice = this.#slice
    if (slice === null || slice.rates !== this.#ratesOf(sequences)) return
    if (slice.since === null) {
      slice.since = now
      return
    }
    slice.tokens += tokens
    if (slice.tokens < SLICE_TOKENS * sequences) return
    slice.rates.add(slice.ways, slice.tokens / (now - slice.since))
    this.#slice = null
  }

  /** Hears of what makes the present slice tell nothing: a prompt, a failure, a pause. */
  interrupt(): void {
    if (this.#slice !== null && this.#slice.since !== null) this.#slice.rates.interrupted()
    this.#slice = null
  }

  #ratesOf(sequences: number): Rates {
    const power = Math.floor(Math.log2(sequences))
    let rates = this.#rates.get(power)
    if (rates === undefined) this.#rates.set(power, (rates = new Rates()))
    return rates
  }
}
