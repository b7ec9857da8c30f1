import { join } from 'node:path'
import { Command } from 'commander'
import { defaultDataDir } from '../config.ts'
import { createBlobStore } from '../model/blob-store.ts'
import { listModels, openModel } from '../model/library.ts'
import { expertLayers } from '../model/model-config.ts'
import type { SwarmStatus } from '../api/services.ts'
import { describeBytes } from '../router/coverage.ts'
import type { Coverage } from '../router/coverage.ts'
import { daemonFetch } from './daemon.ts'
import type { DaemonOptions } from './daemon.ts'
import { table } from './table.ts'

/** `skein models`: the packed models of a store, and how much of each the swarm serves if a node is running. */
export function modelsCommand(): Command {
  return new Command('models')
    .description('list the packed models of this machine')
    .option('--data <dir>', 'data directory (default: ~/.skein)')
    .option('--store <dir>', 'blob store (default: <data>/blobs)')
    .action(async (options: { data?: string; store?: string }) => {
      const dataDir = options.data ?? process.env['SKEIN_DATA'] ?? defaultDataDir()
      const store = createBlobStore({ dir: options.store ?? process.env['SKEIN_STORE'] ?? join(dataDir, 'blobs') })
      const listings = await listModels(store)
      if (listings.length === 0) {
        console.log('no packed models yet: "skein up" packs the embedded one, "skein pack <checkpoint folder>" your own')
        return
      }
      const coverages = await coveragesOf(options)
      const rows = await Promise.all(
        listings.map(async ({ name }) => {
          const { id, manifest } = await openModel(store, name)
          const bytes = manifest.blobs.reduce((sum, blob) => sum + blob.bytes, 0)
          const { experts, expertsPerToken, architecture } = manifest.config
          return [
            name,
            architecture,
            manifest.quant.kind,
            `${expertLayers(manifest.config).length} × ${experts}, top ${expertsPerToken}`,
            describeBytes(bytes),
            describeCoverage(coverages.get(id)),
            id,
          ]
        }),
      )
      console.log(table(['NAME', 'ARCHITECTURE', 'QUANT', 'LAYERS × EXPERTS', 'SIZE', 'COVERAGE', 'CID'], rows))
    })
}

/** Coverage of the models of the running node, by CID; none when no node runs. */
async function coveragesOf(options: DaemonOptions): Promise<ReadonlyMap<string, Coverage>> {
  try {
    const { models } = (await (await daemonFetch(options, '/api/swarm')).json()) as SwarmStatus
    return new Map(models.map(({ id, coverage }) => [id, coverage]))
  } catch {
    return new Map()
  }
}

function describeCoverage(coverage: Coverage | undefined): string {
  if (coverage === undefined) return '-'
  if (coverage.complete) return `complete, ${coverage.minReplicas}+ hosts`
  return `incomplete: ${coverage.experts - coverage.covered} of ${coverage.experts} experts, ${describeBytes(coverage.missingBytes)} missing`
}
