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
  // Once per layer of each token: iterators would be most of it.
  for (let place = 0; place < candidates.length; place++) {
    const candidate = candidates[place]!
    let index = -1
    for (let i = 0; i < runs.length; i++) {
      if (!candidate.holds(layer, runs[i]!.expert)) continue
      if (index === -1) {
        index = hosts.push(candidate) - 1
        places.push(place)
      }
      holders[i]!.push(index)
    }
  }
  return { hosts, places, holders }
}
