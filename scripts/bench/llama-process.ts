/** A process of the engine bench: llama.cpp as node-llama-cpp brings it. Arguments: folder in which that is installed, GGUF file, seed. */
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { OLMOE_1B_7B } from '../synthetic-checkpoint.ts'
import { answerParent, tokenSource } from './engine-child.ts'
import type { EngineRequest } from './engine-child.ts'

/** What is used of node-llama-cpp's binding: below its own queue and sampler, so that llama.cpp is measured and nothing else. */
interface LlamaBinding {
  readonly AddonModel: new (path: string, options: object) => { init(): Promise<boolean> }
  readonly AddonContext: new (model: object, options: object) => LlamaContext
}

interface LlamaContext {
  init(): Promise<boolean>
  setThreads(threads: number): void
  disposeSequence(sequence: number): void
  initBatch(size: number): void
  addToBatch(sequence: number, position: number, tokens: Uint32Array, logitIndexes: Uint32Array): Uint32Array
  decodeBatch(): Promise<void>
  dispose(): Promise<void>
}

const CONTEXT_TOKENS = 1024
const BATCH_TOKENS = 512

const [folder, file, seed] = process.argv.slice(2) as [string, string, string]
const nextTokens = tokenSource(Number(seed), OLMOE_1B_7B.vocabSize)
/** By the number of its sequences. */
let openContext: (sequences: number) => Promise<LlamaContext>
let context: LlamaContext | null = null
let position = 0

answerParent(async (request: EngineRequest) => {
  switch (request.op) {
    case 'open':
      openContext = await openModel(request.threads)
      context = await openContext(1)
      return []
    case 'prefill':
      context!.disposeSequence(0)
      position = 0
      return [await passMs(nextTokens(request.tokens))]
    case 'decode': {
      const samples: number[] = []
      for (const token of nextTokens(request.tokens)) samples.push(await passMs([token]))
      return samples
    }
    case 'decode-together': {
      const samples: number[] = []
      const several = await openContext(request.sequences)
      for (let token = 0; token < request.tokens; token++) {
        const tokens = nextTokens(request.sequences)
        const startedAt = performance.now()
        several.initBatch(tokens.length)
        for (const [sequence, id] of tokens.entries()) several.addToBatch(sequence, token, Uint32Array.of(id), Uint32Array.of(0))
        await several.decodeBatch()
        samples.push(performance.now() - startedAt)
      }
      await several.dispose()
      return samples
    }
    case 'shards':
      throw new Error('llama.cpp has no shards')
  }
})

/** Loads the model; what it returns makes contexts of so many sequences. */
async function openModel(threads: number): Promise<typeof openContext> {
  const entry = pathToFileURL(join(folder, 'node_modules/node-llama-cpp/dist/index.js')).href
  const { getLlama } = (await import(entry)) as { getLlama: (options: object) => Promise<{ readonly _bindings: LlamaBinding }> }
  const { _bindings: binding } = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
  const model = new binding.AddonModel(file, { useMmap: true, gpuLayers: 0, addonExports: binding })
  if (!(await model.init())) throw new Error(`llama.cpp can't load ${file}`)
  return async (sequences) => {
    const opened = new binding.AddonContext(model, { contextSize: CONTEXT_TOKENS, batchSize: BATCH_TOKENS, threads, sequences })
    if (!(await opened.init())) throw new Error('llama.cpp can make no context')
    opened.setThreads(threads)
    return opened
  }
}

async function passMs(tokens: readonly number[]): Promise<number> {
  const startedAt = performance.now()
  context!.initBatch(tokens.length)
  context!.addToBatch(0, position, Uint32Array.from(tokens), Uint32Array.of(tokens.length - 1))
  await context!.decodeBatch()
  position += tokens.length
  return performance.now() - startedAt
}
