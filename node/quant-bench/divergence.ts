/** How far a model's distributions are from those of its original, over some tokens of text. */
export interface DivergenceReport {
  /** Tokens predicted. */
  readonly tokens: number
  /** Root mean square of the logits' difference over that of the original's, each less its mean: a shift of all changes nothing. */
  readonly logitError: number
  /** Kullback-Leibler divergence of the model from the original, nats per token. */
  readonly klNats: number
  /** Share of the tokens for which both find the same token likeliest. */
  readonly sameBest: number
  readonly perplexity: number
  readonly referencePerplexity: number
  /** perplexity / referencePerplexity - 1, and its standard error (of the paired difference). */
  readonly increase: number
  readonly increaseError: number
}

/** Adds up what two models say of the same text. */
export class Divergence {
  #tokens = 0
  #difference = 0
  #scale = 0
  #kl = 0
  #sameBest = 0
  #loss = 0
  #referenceLoss = 0
  /** Of the losses' difference. */
  #square = 0

  /** Logits of both after the same tokens, and the token that follows in the text. */
  add(reference: Float32Array, actual: Float32Array, next: number): void {
    const a = summary(reference)
    const b = summary(actual)
    let kl = 0
    for (let i = 0; i < reference.length; i++) {
      const centred = reference[i]! - a.mean
      const difference = actual[i]! - b.mean - centred
      this.#difference += difference * difference
      this.#scale += centred * centred
      const logReference = reference[i]! - a.logSum
      kl += Math.exp(logReference) * (logReference - (actual[i]! - b.logSum))
    }
    this.#kl += kl
    if (a.best === b.best) this.#sameBest++
    const referenceLoss = a.logSum - reference[next]!
    const loss = b.logSum - actual[next]!
    this.#referenceLoss += referenceLoss
    this.#loss += loss
    this.#square += (loss - referenceLoss) ** 2
    this.#tokens++
  }

  /** Throws `RangeError` when nothing was added. */
  report(): DivergenceReport {
    const tokens = this.#tokens
    if (tokens === 0) throw new RangeError('nothing was compared')
    const mean = (this.#loss - this.#referenceLoss) / tokens
    const variance = Math.max(0, this.#square / tokens - mean * mean)
    return {
      tokens,
      logitError: Math.sqrt(this.#difference / this.#scale),
      klNats: this.#kl / tokens,
      sameBest: this.#sameBest / tokens,
      perplexity: Math.exp(this.#loss / tokens),
      referencePerplexity: Math.exp(this.#referenceLoss / tokens),
      increase: Math.expm1(mean),
      increaseError: Math.exp(mean) * Math.sqrt(variance / tokens),
    }
  }
}

function summary(logits: Float32Array): { mean: number; best: number; logSum: number } {
  let best = 0
  let sum = 0
  for (let i = 0; i < logits.length; i++) {
    sum += logits[i]!
    if (logits[i]! > logits[best]!) best = i
  }
  let total = 0
  for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i]! - logits[best]!)
  return { mean: sum / logits.length, best, logSum: logits[best]! + Math.log(total) }
}
