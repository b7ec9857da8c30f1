import { randomBytes } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { ConfigError } from '../errors.ts'

/**
 * The node's Ed25519 key, made on first use and kept in `file` (libp2p protobuf, readable by its owner only).
 * Throws `ConfigError` when the file is there but is no such key, or can't be written.
 */
export async function loadIdentity(file: string): Promise<Ed25519PrivateKey> {
  const stored = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw new ConfigError(`cannot read the identity ${file}: ${error.message}`, { cause: error })
  })
  if (stored === null) return createIdentity(file)
  try {
    const key = privateKeyFromProtobuf(stored)
    if (key.type === 'Ed25519') return key
  } catch {
    // Falls through to the error below, which names the file and the remedy.
  }
  throw new ConfigError(`${file} is not an Ed25519 identity: restore it from a copy, or delete it to become a new peer`)
}

async function createIdentity(file: string): Promise<Ed25519PrivateKey> {
  const key = await generateKeyPair('Ed25519')
  const draft = `${file}.${randomBytes(6).toString('hex')}`
  try {
    await mkdir(dirname(file), { recursive: true })
    await writeFile(draft, privateKeyToProtobuf(key), { mode: 0o600 })
    // A link fails if another process was first, where a rename would silently replace its identity.
    await link(draft, file)
    return key
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return await loadIdentity(file)
    throw new ConfigError(`cannot write the identity ${file}: ${(error as Error).message}`, { cause: error })
  } finally {
    // Whether it could be removed must not hide what went wrong before; a draft left behind harms nobody.
    await rm(draft, { force: true }).catch(() => {})
  }
}
