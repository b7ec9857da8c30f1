import { expertLayers } from '../model/model-config.ts'
import type { Manifest, ShardEntry } from '../model/manifest.ts'

/** How much of a model live hosts serve. */
export interface Coverage {
  /** Experts of the model, over all layers. */
  readonly experts: number
  /** Experts with at least one live host. */
  readonly covered: number
  /** Live hosts of the rarest expert. */
  readonly minReplicas: number
  /** Whether every expert has a host: else the model can't answer. */
  readonly complete: boolean
  /** Experts without a host, as `0-3,8`, for each layer that has some. */
  readonly missing: readonly { readonly layer: number; readonly experts: string }[]
  /** Size of the shards that would complete the model. */
  readonly missingBytes: number
}

/** Counts over all experts of a model; `replicas` says how many hosts serve one. Pure. */
export function coverageOf(
  { config, blobs }: Pick<Manifest, 'config' | 'blobs'>,
  replicas: (layer: number, expert: number) => number,
): Coverage {
  const layers = expertLayers(config)
  let covered = 0
  let minReplicas = Infinity
  const missing: Coverage['missing'][number][] = []
  for (const layer of layers) {
    const bare: number[] = []
    for (let expert = 0; expert < config.experts; expert++) {
      const count = replicas(layer, expert)
      if (count === 0) bare.push(expert)
      else covered++
      minReplicas = Math.min(minReplicas, count)
    }
    if (bare.length > 0) missing.push({ layer, experts: rangesOf(bare) })
  }
  const isBare = (shard: ShardEntry): boolean => {
    for (let expert = shard.first; expert <= shard.last; expert++) if (replicas(shard.layer, expert) === 0) return true
    return false
  }
  const missingBytes =
    missing.length === 0 ? 0 : blobs.reduce((sum, blob) => sum + (blob.role === 'experts' && isBare(blob) ? blob.bytes : 0), 0)
  return { experts: layers.length * config.experts, covered, minReplicas, complete: missing.length === 0, missing, missingBytes }
}

/** What is missing, for people: `48 of 96 experts have no host (layers 0-2); 12.6 MB more on any node would complete it`. */
export function describeMissing({ experts, covered, missing, missingBytes }: Omit<Coverage, 'minReplicas' | 'complete'>): string {
  const layers = rangesOf(missing.map(({ layer }) => layer))
  const where = `${layers.includes('-') || layers.includes(',') ? 'layers' : 'layer'} ${layers}`
  return `${experts - covered} of ${experts} experts have no host (${where}); ${describeBytes(missingBytes)} more on any nodes would complete it`
}

/** `12.6 MB`, `3.1 GB`. */
export function describeBytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(1)} MB`
}

/** Ascending numbers as `0-3,8`. */
export function rangesOf(numbers: readonly number[]): string {
  const ranges: string[] = []
  for (let i = 0; i < numbers.length; i++) {
    const first = numbers[i]!
    while (numbers[i + 1] === numbers[i]! + 1) i++
    ranges.push(first === numbers[i] ? `${first}` : `${first}-${numbers[i]}`)
  }
  return ranges.join(',')
}
