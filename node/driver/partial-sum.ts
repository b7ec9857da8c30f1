import { weightedSum } from '../engine/combine.ts'
import type { ExpertGroup, LayerWork } from './expert-group.ts'

/** The rows that one host computed: weighted sums when combined, else one row per pick. */
export interface PartialSum {
  readonly group: ExpertGroup
  readonly combined: boolean
  /** [rows of the group, width] when combined, else [picks of the group, width]; memory of its own, given back once it is added. */
  readonly data: Float32Array
  /** The host's own time for it, 0 when it is this node. */
  readonly remoteUs: number
}

/** Adds what the hosts sent into `into` [rows, width], which is zero. */
export function addPartialSums(work: LayerWork, partials: PartialSum[], into: Float32Array): void {
  if (partials.every((partial) => !partial.combined)) return sumInExpertOrder(work, partials, into)
  // Always in the same order, whichever host answered first: float addition is not associative.
  partials.sort((a, b) => a.group.runs[0]!.expert - b.group.runs[0]!.expert)
  for (const { group, combined, data } of partials) {
    const { width } = work
    if (!combined) {
      weightedSum({ rows: work.rows, width, pickRow: layerRows(group), pickWeight: group.pickWeight, outputs: data, into })
      continue
    }
    for (let i = 0; i < group.rowOf.length; i++) addRow(data, i * width, into, group.rowOf[i]! * width, width)
  }
}

/** By itself, since V8 compiles a loop within a function that runs rarely anew each time. */
function addRow(from: Float32Array, start: number, into: Float32Array, to: number, width: number): void {
  for (let i = 0; i < width; i++) into[to + i]! += from[start + i]!
}

/** One row per pick from everybody: adds them as one process would, so that the split leaves no trace in the bits. */
function sumInExpertOrder(work: LayerWork, partials: readonly PartialSum[], into: Float32Array): void {
  const { width, picks } = work
  const outputs = partials.length === 1 ? partials[0]!.data : new Float32Array(picks.pickRow.length * width)
  if (partials.length > 1) {
    for (const { group, data } of partials) {
      let from = 0
      for (const run of group.runs) {
        const count = (run.to - run.from) * width
        outputs.set(data.subarray(from, from + count), run.from * width)
        from += count
      }
    }
  }
  weightedSum({ rows: work.rows, width, pickRow: picks.pickRow, pickWeight: picks.pickWeight, outputs, into })
}

function layerRows(group: ExpertGroup): Uint16Array {
  return group.pickRow.map((row) => group.rowOf[row]!)
}
