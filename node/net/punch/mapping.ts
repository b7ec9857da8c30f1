import type { Endpoint, Reach } from '../../../protocols/punch/index.ts'

/** What one reflector said. */
export interface Sighting {
  readonly reflector: Endpoint
  readonly seen: Endpoint
}

/**
 * How the router maps a socket, from what several reflectors say. An endpoint that two machines agree on is true; as nobody can make
 * others agree, one that lies only adds an endpoint at which nobody answers. Without two that agree, differing sightings mean a router
 * that maps by destination. The most trusted endpoint comes first. Pure.
 */
export function judgeMapping(sightings: readonly Sighting[]): Reach {
  const witnesses = new Map<string, { endpoint: Endpoint; hosts: Set<string> }>()
  for (const { reflector, seen } of sightings) {
    const key = `${seen.address} ${seen.port}`
    const entry = witnesses.get(key) ?? { endpoint: seen, hosts: new Set() }
    entry.hosts.add(reflector.address)
    witnesses.set(key, entry)
  }
  const ranked = [...witnesses.values()].sort((a, b) => b.hosts.size - a.hosts.size)
  const [best] = ranked
  if (best === undefined) return { mapping: 'none', endpoints: [] }
  const mapping = ranked.length === 1 || best.hosts.size > 1 ? 'independent' : 'dependent'
  return { mapping, endpoints: ranked.map((entry) => entry.endpoint) }
}
