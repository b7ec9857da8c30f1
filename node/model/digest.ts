import { CID } from 'multiformats/cid'

/** The SHA-256 digest inside a CID, lower-case hex: how the expert protocol names a model. */
export function digestHex(cid: string): string {
  return Buffer.from(CID.parse(cid).multihash.digest).toString('hex')
}
