import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { LIMITS } from '../protocols/ledger/protocol.ts'

const MAGIC = Buffer.from('SKLEDG1\n')

/** A file is not read beyond this; a swarm's worth of ordinary records is a few megabytes. */
const MAX_STORE_BYTES = 256 * 1024 * 1024

export interface StoredRecords {
  readonly envelopes: readonly Uint8Array[]
  /** True when the file ended early or was no such file; what came before the damage is kept. */
  readonly isDamaged: boolean
}

/**
 * Reads the envelopes of a file written by {@link writeRecords}; none when there is no file. Every envelope is signed, so damage inside
 * one is found when it is verified. Throws what the file system throws, other than for a missing file.
 */
export async function readRecords(file: string): Promise<StoredRecords> {
  const bytes = await readBounded(file)
  if (bytes === null) return { envelopes: [], isDamaged: false }
  if (bytes.length < MAGIC.length || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return { envelopes: [], isDamaged: true }
  const envelopes: Uint8Array[] = []
  let at = MAGIC.length
  while (at < bytes.length) {
    if (at + 4 > bytes.length) return { envelopes, isDamaged: true }
    const length = bytes.readUInt32LE(at)
    at += 4
    if (length > LIMITS.maxEnvelopeBytes || at + length > bytes.length) return { envelopes, isDamaged: true }
    envelopes.push(bytes.subarray(at, at + length))
    at += length
  }
  return { envelopes, isDamaged: false }
}

/** Replaces the file's content: it holds either the old envelopes or the new ones, whenever the process is killed. */
export async function writeRecords(file: string, envelopes: Iterable<Uint8Array>): Promise<void> {
  const parts: Uint8Array[] = [MAGIC]
  for (const envelope of envelopes) {
    const length = Buffer.alloc(4)
    length.writeUInt32LE(envelope.length)
    parts.push(length, envelope)
  }
  await mkdir(dirname(file), { recursive: true })
  const temporary = `${file}.${process.pid}.tmp`
  try {
    const handle = await open(temporary, 'w')
    try {
      await handle.writeFile(Buffer.concat(parts))
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

async function readBounded(file: string): Promise<Buffer | null> {
  const handle = await open(file, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (handle === null) return null
  try {
    const { size } = await handle.stat()
    return size > MAX_STORE_BYTES ? Buffer.alloc(0) : await handle.readFile()
  } finally {
    await handle.close()
  }
}
