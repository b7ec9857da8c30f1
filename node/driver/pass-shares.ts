import type { CallTally, ServedCall, Tally } from './tally.ts'

/** The rows of one query within a pass. */
export interface PassShare {
  readonly tally: Tally
  readonly firstRow: number
  readonly rows: number
}

/** Divides the calls of a pass among the queries whose rows they carried. All of them are called in the same way. */
export class PassShares implements CallTally {
  readonly wire: CallTally['wire']
  readonly combine: CallTally['combine']
  readonly #shares: readonly PassShare[]

  constructor(shares: readonly PassShare[]) {
    const { wire, combine } = shares[0]!.tally
    this.wire = wire
    this.combine = combine
    this.#shares = shares
  }

  served(call: ServedCall): void {
    const { rowOf } = call
    let at = 0
    // Both ascend.
    for (const { tally, firstRow, rows } of this.#shares) {
      const from = at
      while (at < rowOf.length && rowOf[at]! < firstRow + rows) at++
      if (at > from) tally.add(call, at - from, (at - from) / rowOf.length)
    }
  }

  retry(): void {
    for (const { tally } of this.#shares) tally.retry()
  }

  layerDone(meshUs: number): void {
    for (const { tally } of this.#shares) tally.layerDone(meshUs)
  }
}
