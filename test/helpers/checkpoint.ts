import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { temporaryDir } from './temporary-dir.ts'

/** A committed checkpoint of random weights: `random-qwen3moe`, `random-olmoe` or `random-mixtral`; it has no tokenizer. */
export function goldenCheckpoint(name: string): string {
  return fileURLToPath(new URL(`../golden/${name}/`, import.meta.url))
}

/** The embedded model's checkpoint. */
export const EMBER_CHECKPOINT = fileURLToPath(new URL('../../node/model/ember/', import.meta.url))

/** A copy of a checkpoint with some fields of its config.json replaced (undefined removes one). */
export async function changedCheckpoint(t: TestContext, source: string, fields: Readonly<Record<string, unknown>>): Promise<string> {
  const dir = join(await temporaryDir(t), 'checkpoint')
  await cp(source, dir, { recursive: true })
  const path = join(dir, 'config.json')
  const config = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
  await writeFile(path, JSON.stringify({ ...config, ...fields }))
  return dir
}
