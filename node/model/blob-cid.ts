import { CID } from 'multiformats/cid'
import { create as createDigest } from 'multiformats/hashes/digest'
import { ModelError } from '../errors.ts'

const RAW_CODEC = 0x55
const SHA2_256 = 0x12
/** Base32 text of a CIDv1 with a 32-byte digest; anything longer can't be one. */
const MAX_CID_LENGTH = 64

/** The CID (v1, raw, sha-256, base32) of a blob with this sha-256 digest. */
export function blobCid(sha256: Uint8Array): string {
  return CID.createV1(RAW_CODEC, createDigest(SHA2_256, sha256)).toString()
}

/** Whether `text` is a blob's CID exactly as {@link blobCid} writes it; such a text is also safe as a file name. */
export function isBlobCid(text: string): boolean {
  if (text.length > MAX_CID_LENGTH) return false
  try {
    const cid = CID.parse(text)
    return cid.version === 1 && cid.code === RAW_CODEC && cid.multihash.code === SHA2_256 && cid.toString() === text
  } catch {
    return false
  }
}

/** Throws `ModelError` unless `text` is a blob's CID. */
export function assertBlobCid(text: string): void {
  if (!isBlobCid(text))
    throw new ModelError(`${JSON.stringify(text.slice(0, 80))} is not a blob id: expected a CIDv1 (raw, sha-256) in base32`)
}
