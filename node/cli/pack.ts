import { join } from 'node:path'
import { Command, Option } from 'commander'
import { ConfigError, ModelError } from '../errors.ts'
import { createBlobStore } from '../model/blob-store.ts'
import { EMBEDDED_NAME } from '../model/embedded.ts'
import { BLOCKS } from '../model/layout.ts'
import type { QuantKind } from '../model/manifest.ts'
import { expertLayers } from '../model/model-config.ts'
import { DEFAULTS, packCheckpoint } from '../model/pack.ts'
import type { PackProgress } from '../model/pack.ts'
import type { ModelPackage } from '../model/package.ts'

const QUANT_KINDS: readonly QuantKind[] = ['f32', 'f16', 'q8', 'q4']
/** Blobs of a data directory. */
const BLOBS_FOLDER = 'blobs'
const REDRAW_MS = 100

interface PackFlags {
  readonly quant: QuantKind
  readonly block: string
  readonly name?: string
  readonly data: string
}

/** `skein pack <checkpoint>`: a Hugging Face checkpoint or a GGUF file becomes a model of the data directory. */
export function packCommand(defaultDataDir: string): Command {
  return new Command('pack')
    .description('pack a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json) or a GGUF file into a model of this node')
    .argument('<checkpoint>', 'folder of the checkpoint, or path of the GGUF file')
    .addOption(new Option('--quant <kind>', 'how weights are stored').choices(QUANT_KINDS).default('q4'))
    .addOption(
      new Option('--block <weights>', 'weights per scale of q4 and q8')
        .choices(BLOCKS.toReversed().map(String))
        .default(String(DEFAULTS.block)),
    )
    .option('--name <name>', "the model's friendly name (default: the folder's name and the kind, as in olmoe-q4)")
    .option('--data <dir>', 'data directory', defaultDataDir)
    .action(pack)
}

async function pack(dir: string, flags: PackFlags): Promise<void> {
  if (flags.name === EMBEDDED_NAME) {
    throw new ConfigError(`--name ${EMBEDDED_NAME} is reserved for the embedded model: choose another name`)
  }
  const store = createBlobStore({ dir: join(flags.data, BLOBS_FOLDER) })
  const interrupt = new AbortController()
  const onInterrupt = (): void => interrupt.abort(new ModelError('packing was interrupted; no model was added'))
  process.once('SIGINT', onInterrupt)
  const progress = process.stderr.isTTY ? progressLine() : undefined
  const startedAt = performance.now()
  let model: ModelPackage
  try {
    model = await packCheckpoint({
      dir,
      store,
      quant: flags.quant,
      block: Number(flags.block),
      signal: interrupt.signal,
      ...(flags.name === undefined ? {} : { name: flags.name }),
      ...(progress === undefined ? {} : { onProgress: (state) => progress.draw(state) }),
    })
  } finally {
    progress?.clear()
    process.off('SIGINT', onInterrupt)
  }
  process.stdout.write(summary(model, store.dir, (performance.now() - startedAt) / 1000))
}

/** One line on the terminal, redrawn in place: share, rate and time left. */
function progressLine(): { draw(progress: PackProgress): void; clear(): void } {
  const startedAt = performance.now()
  let drawnAt = 0
  return {
    draw: ({ bytes, totalBytes }) => {
      const now = performance.now()
      if (now - drawnAt < REDRAW_MS) return
      drawnAt = now
      const rate = bytes / ((now - startedAt) / 1000)
      const left = Math.ceil((totalBytes - bytes) / rate)
      const share = Math.floor((100 * bytes) / totalBytes)
      process.stderr.write(`\r\u001B[K${share} % of ${megabytes(totalBytes)}, ${megabytes(rate)}/s, ${left} s left`)
    },
    clear: () => {
      process.stderr.write('\r\u001B[K')
    },
  }
}

function summary({ id, manifest }: ModelPackage, storeDir: string, seconds: number): string {
  const { config, quant, blobs } = manifest
  const dense = config.dense === null ? '' : `; ${config.dense.layers.length} dense`
  const shards = blobs.filter((blob) => blob.role === 'experts')
  const size = (entries: readonly { readonly bytes: number }[]): string => megabytes(entries.reduce((sum, { bytes }) => sum + bytes, 0))
  const trunk = blobs.filter((blob) => blob.role === 'embedding' || blob.role === 'layer' || blob.role === 'head')
  return [
    `packed ${manifest.name} in ${seconds.toFixed(1)} s into ${storeDir}`,
    `  id       ${id}`,
    `  model    ${config.architecture}, ${expertLayers(config).length} layers of ${config.experts} experts, ${config.expertsPerToken} per token${dense}`,
    `  weights  ${quant.kind}${quant.block > 0 ? ` in blocks of ${quant.block}` : ''}, ${size(blobs)} in all`,
    `  trunk    ${size(trunk)} in ${trunk.length} blobs`,
    `  experts  ${size(shards)} in ${shards.length} shards`,
    '',
  ].join('\n')
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`
}
