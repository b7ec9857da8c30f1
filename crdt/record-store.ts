import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { LIMITS } from '../protocols/ledger/protocol.ts'

const MAGIC = Buffer.from('SKLEDG2\n')

/** A file is not read beyond this; a swarm's worth of ordinary records is a few megabytes. */
const MAX_STORE_BYTES = 256 * 1024 * 1024

export interface StoredRecord {
  /** The envelope. */
  readonly bytes: Uint8Array
  /** When it arrived, milliseconds since 1970 by this node's clock. */
  readonly receivedMs: number
}

/** Length and time of arrival before each envelope. */
const HEAD_BYTES = 4 + 8

export interface StoredRecords {
  readonly records: readonly StoredRecord[]
  /** True when the file ended early or was no such file; what came before the damage is kept. */
  readonly isDamaged: boolean
}

/**
 * Reads the records of a file written by {@link writeRecords}; none when there is no file. Every envelope is signed, so damage inside
 * one is found when it is verified. Throws what the file system throws, other than for a missing file.
 */
export async function readRecords(file: string): Promise<StoredRecords> {
  const bytes = await readBounded(file)
  if (bytes === null) return { records: [], isDamaged: false }
  if (bytes.length < MAGIC.length || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return { records: [], isDamaged: true }
  const records: StoredRecord[] = []
  let at = MAGIC.length
  while (at < bytes.length) {
    if (at + HEAD_BYTES > bytes.length) return { records, isDamaged: true }
    const length = bytes.readUInt32LE(at)
    const receivedMs = Number(bytes.readBigUInt64LE(at + 4))
    at += HEAD_BYTES
    if (length > LIMITS.maxEnvelopeBytes || at + length > bytes.length) return { records, isDamaged: true }
    records.push({ bytes: bytes.subarray(at, at + length), receivedMs })
    at += length
  }
  return { records, isDamaged: false }
}

/** Replaces the file's content: it holds either the old records or the new ones, whenever the process is killed. */
export async function writeRecords(file: string, records: Iterable<StoredRecord>): Promise<void> {
  const parts: Uint8Array[] = [MAGIC]
  for (const { bytes, receivedMs } of records) {
    const head = Buffer.alloc(HEAD_BYTES)
    head.writeUInt32LE(bytes.length)
    head.writeBigUInt64LE(BigInt(receivedMs), 4)
    parts.push(head, bytes)
  }
  await mkdir(dirname(file), { recursive: true })
  // Of one name, so that what a killed process leaves is overwritten; a store has one process.
  const temporary = `${file}.tmp`
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
