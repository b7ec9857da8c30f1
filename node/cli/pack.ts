import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import { defaultDataDir } from '../config.ts'
import { ConfigError, ModelError } from '../errors.ts'
import { DEFAULT_HUB, hubSettings } from '../hub-settings.ts'
import { createBlobStore } from '../model/blob-store.ts'
import { EMBEDDED_NAME } from '../model/embedded.ts'
import { downloadModel } from '../model/hub/download.ts'
import type { Download } from '../model/hub/download.ts'
import { isHubReference, parseHubReference } from '../model/hub/reference.ts'
import { BLOCKS } from '../model/layout.ts'
import type { QuantKind } from '../model/manifest.ts'
import { expertLayers } from '../model/model-config.ts'
import { DEFAULTS, modelName, packCheckpoint } from '../model/pack.ts'
import type { ModelPackage } from '../model/package.ts'
import { ProgressLine, size } from './progress-line.ts'
import type { Progress } from './progress-line.ts'

const QUANT_KINDS: readonly QuantKind[] = ['f32', 'f16', 'q8', 'q4']
/** Every token uses the trunk, which is a small part of a model: in q4 it causes most of the error (`skein bench quant`). */
const Q4_TRUNK = 'q8'
/** Blobs of a data directory. */
const BLOBS_FOLDER = 'blobs'
/** Checkpoints on their way from a hub. */
const DOWNLOADS_FOLDER = 'downloads'

interface PackFlags {
  readonly quant: QuantKind
  readonly block: string
  readonly trunk?: 'q4' | 'q8'
  readonly name?: string
  readonly data: string
  readonly hub?: string
  readonly keep?: boolean
}

/** `skein pack <checkpoint>`: a checkpoint, local or on a hub, becomes a model of the data directory. */
export function packCommand(): Command {
  return new Command('pack')
    .description('pack a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json) or a GGUF file into a model of this node')
    .argument(
      '<checkpoint>',
      'folder of the checkpoint, path of the GGUF file, or hf:org/name[@revision][:file.gguf] to fetch it from a hub',
    )
    .addOption(new Option('--quant <kind>', 'how weights are stored').choices(QUANT_KINDS).default('q4'))
    .addOption(
      new Option('--block <weights>', 'weights per scale of q4 and q8')
        .choices(BLOCKS.toReversed().map(String))
        .default(String(DEFAULTS.block)),
    )
    .addOption(
      new Option('--trunk <kind>', `how embedding, attention and head are stored beside experts in q4 (default: ${Q4_TRUNK})`).choices([
        'q4',
        'q8',
      ]),
    )
    .option('--name <name>', "the model's friendly name (default: the checkpoint's name and the kind, as in olmoe-q4)")
    .option('--data <dir>', 'data directory', defaultDataDir())
    .option('--hub <url>', `address of the hub (default: HF_ENDPOINT, or ${DEFAULT_HUB}); a token is taken from HF_TOKEN`)
    .option('--keep', 'keep the downloaded checkpoint after packing')
    .action(pack)
}

async function pack(source: string, flags: PackFlags): Promise<void> {
  if (flags.name === EMBEDDED_NAME) {
    throw new ConfigError(`--name ${EMBEDDED_NAME} is reserved for the embedded model: choose another name`)
  }
  const interrupt = new AbortController()
  const onInterrupt = (): void => interrupt.abort(new ModelError('interrupted; no model was added: run the same command again to go on'))
  process.once('SIGINT', onInterrupt)
  try {
    if (isHubReference(source)) await packFromHub(source, flags, interrupt.signal)
    else await packLocal(source, flags, interrupt.signal)
  } finally {
    process.off('SIGINT', onInterrupt)
  }
}

async function packFromHub(source: string, flags: PackFlags, signal: AbortSignal): Promise<void> {
  const reference = parseHubReference(source)
  const hub = hubSettings(flags.hub, process.env)
  const name = flags.name ?? modelName(reference.file ?? reference.repo, flags.quant)
  const download = await withProgress('downloading', (onProgress) =>
    downloadModel({ reference, hub, dir: join(flags.data, DOWNLOADS_FOLDER), onProgress, signal }),
  )
  await packLocal(download.checkpoint, { ...flags, name }, signal)
  await keepOrRemove(download, flags)
}

async function keepOrRemove({ dir }: Download, { keep }: PackFlags): Promise<void> {
  if (keep === true) process.stdout.write(`  kept     ${dir}\n`)
  else await rm(dir, { recursive: true, force: true })
}

async function packLocal(dir: string, flags: PackFlags, signal: AbortSignal): Promise<void> {
  const { name, quant, block, data, trunk = quant === 'q4' ? Q4_TRUNK : undefined } = flags
  const store = createBlobStore({ dir: join(data, BLOBS_FOLDER) })
  const startedAt = performance.now()
  const model = await withProgress('packing', (onProgress) =>
    packCheckpoint({
      dir,
      store,
      quant,
      block: Number(block),
      signal,
      onProgress,
      ...(trunk === undefined ? {} : { trunk }),
      ...(name === undefined ? {} : { name }),
    }),
  )
  process.stdout.write(summary(model, store.dir, (performance.now() - startedAt) / 1000))
}

async function withProgress<T>(what: string, run: (onProgress: (progress: Progress) => void) => Promise<T>): Promise<T> {
  const line = new ProgressLine(what, process.stderr)
  try {
    return await run((progress) => line.draw(progress))
  } finally {
    line.clear()
  }
}

function summary({ id, manifest }: ModelPackage, storeDir: string, seconds: number): string {
  const { config, quant, blobs } = manifest
  const shards = blobs.filter((blob) => blob.role === 'experts')
  const sizeOf = (entries: readonly { readonly bytes: number }[]): string => size(entries.reduce((sum, { bytes }) => sum + bytes, 0))
  const trunk = blobs.filter((blob) => blob.role === 'embedding' || blob.role === 'layer' || blob.role === 'head')
  const dense = config.dense === null ? '' : `; ${config.dense.layers.length} dense`
  return [
    `packed ${manifest.name} in ${seconds.toFixed(1)} s into ${storeDir}`,
    `  id       ${id}`,
    `  model    ${config.architecture}, ${expertLayers(config).length} layers of ${config.experts} experts, ${config.expertsPerToken} per token${dense}`,
    `  weights  ${quant.kind}${quant.block > 0 ? ` in blocks of ${quant.block}` : ''}${quant.trunk === undefined ? '' : `, trunk ${quant.trunk}`}, ${sizeOf(blobs)} in all`,
    `  trunk    ${sizeOf(trunk)} in ${trunk.length} blobs`,
    `  experts  ${sizeOf(shards)} in ${shards.length} shards`,
    '',
  ].join('\n')
}
