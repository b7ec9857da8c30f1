import type { ExpertRun } from './expert-group.ts'
import type { Candidate } from './holders.ts'

/** Who of the candidates can compute a part of a layer. */
export interface Serving {
  readonly hosts: readonly Candidate[]
  /** Of each of them among all candidates. */
  readonly places: readonly number[]
  /** For each run, the indexes of its hosts. */
  readonly holders: readonly (readonly number[])[]
}

/** `runs`: of the layer. */
export function servingOf(layer: number, runs: readonly ExpertRun[], candidates: readonly Candidate[]): Serving {
  const hosts: Candidate[] = []
  const places: number[] = []
  const holders = runs.map((): number[] => [])
  for (const [place, candidate] of candidates.entries()) {
    let index = -1
    for (const [i, { expert }] of runs.entries()) {
      if (!candidate.holds(layer, expert)) continue
      if (index === -1) index = hosts.push(candidate) - 1
      places[index] = place
      holders[i]!.push(index)
    }
  }
  return { hosts, places, holders }
}
