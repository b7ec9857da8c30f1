import { randomUUID } from 'node:crypto'
import { open, rename, rm, writeFile } from 'node:fs/promises'
import { ModelError } from '../errors.ts'

/** The system's code of a failed call (`ENOENT`), or undefined for any other error. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/** Content of a file of at most `maxBytes`, or undefined when it is not there. Throws `ModelError` when it is larger. */
export async function readSmallFile(path: string, maxBytes: number): Promise<Buffer | undefined> {
  let file
  try {
    file = await open(path, 'r')
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    throw new ModelError(`${path} can't be read: ${(error as Error).message}`, { cause: error })
  }
  try {
    const { size } = await file.stat()
    if (size > maxBytes) throw new ModelError(`${path} has ${size} bytes, more than the ${maxBytes} that such a file may have`)
    return await file.readFile()
  } finally {
    await file.close()
  }
}

/** The JSON object in a file, or undefined when the file is not there. Throws `ModelError` when it is no JSON object or too large. */
export async function readJsonObject(path: string, maxBytes: number): Promise<Record<string, unknown> | undefined> {
  const content = await readSmallFile(path, maxBytes)
  if (content === undefined) return undefined
  return parseJsonObject(content.toString('utf8'), path)
}

/** Throws `ModelError` naming `origin` when `text` is no JSON object. */
export function parseJsonObject(text: string, origin: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new ModelError(`${origin} is not valid JSON (${(error as Error).message}): get the file again`, { cause: error })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ModelError(`${origin} does not hold a JSON object: get the file again`)
  return value as Record<string, unknown>
}

/** Puts a small file in place in one step, so that other processes see the old content or the new, never a part. */
export async function writeFileAtomic(path: string, content: string): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`
  try {
    await writeFile(temporary, content, { flag: 'wx' })
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}
