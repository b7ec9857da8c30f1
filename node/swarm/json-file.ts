import { randomBytes } from 'node:crypto'
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { ZodType } from 'zod'
import { ConfigError } from '../errors.ts'

/** Reads a file of this node as JSON of the given shape; null when there is none. Throws `ConfigError` naming the file and the remedy. */
export async function readJsonFile<T>(file: string, shape: ZodType<T>): Promise<T | null> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new ConfigError(`cannot read ${file}: ${(error as Error).message}`, { cause: error })
  }
  try {
    return shape.parse(JSON.parse(text))
  } catch (error) {
    throw new ConfigError(`${file} is damaged: restore it from a copy, or delete it and join the swarm again`, { cause: error })
  }
}

/** Writes the whole file or none of it, readable by its owner only. */
export async function writeJsonFile(file: string, value: unknown): Promise<void> {
  const draft = `${file}.${randomBytes(6).toString('hex')}`
  try {
    await mkdir(dirname(file), { recursive: true })
    await writeFile(draft, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600, flush: true })
    await rename(draft, file)
  } catch (error) {
    await rm(draft, { force: true }).catch(() => {})
    throw new ConfigError(`cannot write ${file}: ${(error as Error).message}`, { cause: error })
  }
}
