import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Gives a checkpoint of random weights a tokenizer, since a node serves no model without: token i is the i-th printable character. */
export async function addTinyTokenizer(checkpoint: string, vocabSize: number): Promise<void> {
  const vocab = Object.fromEntries(Array.from({ length: vocabSize }, (_, id) => [String.fromCodePoint(0x100 + id), id]))
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: 'BPE', vocab, merges: [] },
  }
  await writeFile(join(checkpoint, 'tokenizer.json'), JSON.stringify(tokenizer))
}
