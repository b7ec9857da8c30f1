import { dirname } from 'node:path'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { readTokenizerFiles } from '../checkpoint-folder.ts'
import type { CheckpointSource, TokenizerContent } from '../checkpoint-folder.ts'
import { ggufConfig } from './architectures.ts'
import type { GgufMetadata } from './metadata.ts'
import { openGgufFiles } from './split-files.ts'
import { ggufTensors } from './tensors.ts'
import { ggufTokenizer } from './tokenizer.ts'
import { ggufWeights } from './weights.ts'

/** Opens a GGUF file, or all files of a split one, as the Hugging Face checkpoint that it was made from. Throws `ModelError`. */
export async function openGguf(path: string): Promise<CheckpointSource> {
  const model = await openGgufFiles(path)
  const { metadata } = model
  const config = ggufConfig(model)
  return {
    configPath: path,
    fields: config.fields,
    generationPath: path,
    generation: {
      temperature: metadata.number('general.sampling.temp'),
      top_k: metadata.number('general.sampling.top_k'),
      top_p: metadata.number('general.sampling.top_p'),
    },
    tokenizer: await tokenizerFiles(path, metadata),
    openTensors: () => Promise.resolve(ggufTensors(model)),
    weights: ggufWeights(config),
  }
}

/** From the metadata; where that is of a kind that is not known, from tokenizer files beside the GGUF file. */
async function tokenizerFiles(path: string, metadata: GgufMetadata): Promise<TokenizerContent[]> {
  try {
    const tokenizer = ggufTokenizer(metadata)
    if (tokenizer === undefined) return await readTokenizerFiles(dirname(path))
    return [
      { name: 'tokenizer.json', content: Buffer.from(JSON.stringify(tokenizer.definition)) },
      { name: 'tokenizer_config.json', content: Buffer.from(JSON.stringify(tokenizer.settings)) },
    ]
  } catch (error) {
    if (!isMeshError(error, 'ModelError')) throw error
    const beside = await readTokenizerFiles(dirname(path))
    if (beside.some(({ name }) => name === 'tokenizer.json')) return beside
    throw error
  }
}
