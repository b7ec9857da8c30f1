import type { ExpertCall } from '../../protocols/expert/index.ts'
import type { Picks } from '../engine/picks.ts'

/** The picks of one expert within a layer's picks: indexes `from` to `to`. */
export interface ExpertRun {
  readonly expert: number
  readonly from: number
  readonly to: number
}

/** One layer of one pass: what is to be computed, before it is known by whom. */
export interface LayerWork {
  readonly layer: number
  readonly rows: number
  readonly width: number
  /** [rows, width] */
  readonly x: Float32Array
  readonly picks: Picks
  readonly runs: readonly ExpertRun[]
}

/** Some runs of a layer, for one host: rows packed so that each travels once. */
export interface ExpertGroup {
  readonly runs: readonly ExpertRun[]
  /** Row of the layer for each row of the group. */
  readonly rowOf: Uint16Array
  /** [rowOf.length, width] */
  readonly x: Float32Array
  /** Rows are the group's. */
  readonly pickRow: Uint16Array
  readonly pickExpert: Uint16Array
  readonly pickWeight: Float32Array
}

/** The runs of picks that are sorted by expert. */
export function expertRuns(picks: Picks): ExpertRun[] {
  const runs: ExpertRun[] = []
  const { pickExpert } = picks
  for (let from = 0; from < pickExpert.length;) {
    let to = from + 1
    while (to < pickExpert.length && pickExpert[to] === pickExpert[from]) to++
    runs.push({ expert: pickExpert[from]!, from, to })
    from = to
  }
  return runs
}

/** Packs the given runs (in the layer's order) for one host. */
export function groupOf(work: LayerWork, runs: readonly ExpertRun[]): ExpertGroup {
  const { picks, width, rows } = work
  const count = runs.reduce((sum, run) => sum + run.to - run.from, 0)
  const pickRow = new Uint16Array(count)
  const pickExpert = new Uint16Array(count)
  const pickWeight = new Float32Array(count)
  const rowIn = new Int32Array(rows).fill(-1)
  for (const run of runs) for (let i = run.from; i < run.to; i++) rowIn[picks.pickRow[i]!] = 0
  // Group rows ascend as the layer's do, so that picks stay sorted by expert, then row.
  let used = 0
  for (let row = 0; row < rows; row++) if (rowIn[row] === 0) rowIn[row] = used++
  const rowOf = new Uint16Array(used)
  for (let row = 0; row < rows; row++) if (rowIn[row]! >= 0) rowOf[rowIn[row]!] = row
  let at = 0
  for (const run of runs) {
    for (let i = run.from; i < run.to; i++, at++) {
      pickRow[at] = rowIn[picks.pickRow[i]!]!
      pickExpert[at] = picks.pickExpert[i]!
      pickWeight[at] = picks.pickWeight[i]!
    }
  }
  let x = work.x
  if (used !== rows) {
    x = new Float32Array(used * width)
    for (let i = 0; i < used; i++) x.set(work.x.subarray(rowOf[i]! * width, (rowOf[i]! + 1) * width), i * width)
  }
  return { runs, rowOf, x, pickRow, pickExpert, pickWeight }
}

/** What the host of a group is asked. */
export function callOf(
  work: LayerWork,
  group: ExpertGroup,
  how: Pick<ExpertCall, 'model' | 'priority' | 'deadlineMs' | 'combine' | 'rowType'>,
): ExpertCall {
  return {
    ...how,
    layer: work.layer,
    rows: group.rowOf.length,
    width: work.width,
    x: group.x,
    pickRow: group.pickRow,
    pickExpert: group.pickExpert,
    pickWeight: group.pickWeight,
  }
}
