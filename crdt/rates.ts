/**
 * Rates as bytes on a logarithmic scale: code 255 is the peak, each step down a sixteenth of a halving, 0 is none. Within 2.2 % over a
 * range of 1 to 60,000: heat decides what to replicate, and is not worth more bits.
 */
const STEPS_PER_HALVING = 16
const TOP = 255

const SHARES = Float64Array.from({ length: TOP + 1 }, (_, code) => (code === 0 ? 0 : 2 ** ((code - TOP) / STEPS_PER_HALVING)))

/** What share of the peak a code stands for. */
export function shareOf(code: number): number {
  return SHARES[code]!
}

/** The nearest code; 0 for what is too small beside the peak. */
export function codeOf(rate: number, peak: number): number {
  if (!(rate > 0)) return 0
  return Math.max(0, Math.min(TOP, Math.round(TOP + STEPS_PER_HALVING * Math.log2(rate / peak))))
}

/** What is left of a rate after a time, 1 when the time lies in the future: clocks differ. */
export function decay(elapsedMs: number, halfLifeMs: number): number {
  return elapsedMs <= 0 ? 1 : 2 ** (-elapsedMs / halfLifeMs)
}
