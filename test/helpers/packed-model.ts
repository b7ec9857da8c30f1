import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createEngine } from '../../node/engine/onnx-engine.ts'
import type { Engine, EngineInit } from '../../node/engine/engine.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { packCheckpoint } from '../../node/model/pack.ts'
import type { QuantKind } from '../../node/model/manifest.ts'
import type { ModelPackage } from '../../node/model/package.ts'
import { writeSyntheticCheckpoint } from '../../scripts/synthetic-checkpoint.ts'
import { EMBER_CHECKPOINT, goldenCheckpoint } from './checkpoint.ts'

/** Checkpoints that tests run: the embedded model, and random weights in test/golden. */
export type CheckpointName =
  | 'ember'
  | 'random-qwen3moe'
  | 'random-olmoe'
  | 'random-mixtral'
  | 'random-qwen2moe'
  | 'random-gptoss'
  | 'random-gptoss-mxfp4'
  | 'random-deepseek2'
  | 'random-deepseek2-lite'
  | 'random-deepseek3'
  | 'random-deepseek3-fp8'
  | 'random-granitemoe'
  | 'random-glm4moe'

/** Anything with an end: a test or a whole file. */
interface Teardown {
  after(fn: () => Promise<void>): void
}

interface TestQuant {
  readonly kind: QuantKind
  readonly block?: number
}

/** A model packed into a store of its own that goes away with the test. `dir`: the store's folder. */
export async function packForTest(
  t: Teardown,
  name: CheckpointName,
  quant: TestQuant = { kind: 'f32' },
): Promise<{ readonly model: ModelPackage; readonly dir: string }> {
  return await packFolderForTest(t, name === 'ember' ? EMBER_CHECKPOINT : goldenCheckpoint(name), quant)
}

/** A checkpoint of one layer of eight random experts that are larger than those of the checkpoints in test/golden. Its folder. */
export async function wideCheckpoint(t: Teardown): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'skein-wide-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const shape = { layers: 1, experts: 8, expertsPerToken: 2, hiddenSize: 576, expertSize: 320, heads: 4, vocabSize: 300, maxContext: 64 }
  await writeSyntheticCheckpoint({ dir, ...shape })
  return dir
}

export async function packFolderForTest(
  t: Teardown,
  checkpoint: string,
  quant: TestQuant,
): Promise<{ readonly model: ModelPackage; readonly dir: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'skein-packed-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const model = await packCheckpoint({
    dir: checkpoint,
    store: createBlobStore({ dir }),
    quant: quant.kind,
    tokenizer: 'optional',
    ...(quant.block === undefined ? {} : { block: quant.block }),
  })
  return { model, dir }
}

/** An engine that is closed with the test. */
export function engineForTest(t: Teardown, threads = 1, init: Partial<EngineInit> = {}): Engine {
  const engine = createEngine({ threads, callerRunBytes: 0, ...init })
  t.after(() => engine.close())
  return engine
}
