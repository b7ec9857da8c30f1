import { join } from 'node:path'
import { Command } from 'commander'
import { defaultDataDir } from '../config.ts'
import { createBlobStore } from '../model/blob-store.ts'
import { listModels, openModel } from '../model/library.ts'
import { expertLayers } from '../model/model-config.ts'
import { table } from './table.ts'

/** `skein models`: the packed models of a store. */
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
            `${(bytes / 1e6).toFixed(1)} MB`,
            id,
          ]
        }),
      )
      console.log(table(['NAME', 'ARCHITECTURE', 'QUANT', 'LAYERS × EXPERTS', 'SIZE', 'CID'], rows))
    })
}
