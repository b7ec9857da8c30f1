import type { X509Certificate } from 'node:crypto'
import { publicKeyFromProtobuf } from '@libp2p/crypto/keys'
import { InvalidCryptoExchangeError } from '@libp2p/interface'
import type { PeerId, PublicKey } from '@libp2p/interface'
import { peerIdFromCID } from '@libp2p/peer-id'

/** 1.3.6.1.4.1.53594.1.1, as DER has it. */
const KEY_EXTENSION = Buffer.from([0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xa2, 0x5a, 0x01, 0x01])
const SIGNED_PREFIX = Buffer.from('libp2p-tls-handshake:')
const OCTET_STRING = 0x04
const OBJECT_ID = 0x06
const SEQUENCE = 0x30
const VERSION = 0xa0
const EXTENSIONS = 0xa3
/** Of the key among the parts of a certificate, the version not counted: serial number, algorithm, issuer, validity, subject, key. */
const KEY_INDEX = 5

/** An element of DER. */
interface Element {
  readonly tag: number
  readonly content: Buffer
  /** With tag and length. */
  readonly whole: Buffer
}

/**
 * Peer that a certificate of libp2p's TLS belongs to: it is self-signed, and carries a peer's key and that key's signature over its own. As
 * `verifyPeerCertificate` of `@libp2p/tls` 3.1.10, but with OpenSSL's parser: the library's takes a tenth of the CPU time of a new connection.
 * That the other side has the certificate's own key is for TLS to see to. Throws `InvalidCryptoExchangeError` for any other certificate.
 *
 * @see https://github.com/libp2p/specs/blob/master/tls/tls.md
 */
export async function peerOfCertificate(certificate: X509Certificate): Promise<PeerId> {
  const now = Date.now()
  if (!(certificate.validFromDate.getTime() <= now)) throw new InvalidCryptoExchangeError('the certificate is not valid yet')
  if (!(certificate.validToDate.getTime() >= now)) throw new InvalidCryptoExchangeError('the certificate has expired')
  if (certificate.issuer !== certificate.subject || !(await isTrue(() => certificate.verify(certificate.publicKey))))
    throw new InvalidCryptoExchangeError('the certificate is not self-signed')
  const { ownKey, peerKey, signature } = contentOf(certificate.raw)
  if (!(await isTrue(() => peerKey.verify(Buffer.concat([SIGNED_PREFIX, ownKey]), signature))))
    throw new InvalidCryptoExchangeError("the peer's key did not sign the certificate's")
  return peerIdFromCID(peerKey.toCID())
}

/** A key of a kind that is not known, and a signature that is none, verify nothing. */
async function isTrue(verify: () => boolean | Promise<boolean>): Promise<boolean> {
  try {
    return await verify()
  } catch {
    return false
  }
}

function contentOf(der: Buffer): { ownKey: Buffer; peerKey: PublicKey; signature: Buffer } {
  try {
    const [certificate] = elements(der)
    const [body] = elements(certificate!.content)
    const parts = elements(body!.content).filter(({ tag }) => tag !== VERSION)
    const ownKey = parts[KEY_INDEX]!.whole
    const [extensions] = elements(parts.find(({ tag }) => tag === EXTENSIONS)!.content)
    // The library looks at the first one only, and so does this: both sides must agree on who a peer is.
    const [extension] = elements(extensions!.content)
    const [id, ...rest] = elements(extension!.content)
    if (id!.tag !== OBJECT_ID || !id!.content.equals(KEY_EXTENSION)) throw new Error("its first extension is not the peer's key")
    const [signed] = elements(rest.at(-1)!.content)
    const [key, signature] = elements(signed!.content)
    if (signed!.tag !== SEQUENCE || key!.tag !== OCTET_STRING || signature!.tag !== OCTET_STRING)
      throw new Error("the peer's key or its signature is of the wrong type")
    return { ownKey, peerKey: publicKeyFromProtobuf(key!.content), signature: signature!.content }
  } catch (error) {
    throw new InvalidCryptoExchangeError(`the certificate names no peer: ${(error as Error).message}`)
  }
}

/** The elements that follow each other in DER. Throws for lengths that are beyond the end or left open, and for tags of more than one byte. */
function elements(der: Buffer): Element[] {
  const found: Element[] = []
  for (let at = 0; at < der.length;) {
    const tag = der.readUInt8(at)
    const first = der.readUInt8(at + 1)
    const isShort = first < 0x80
    const start = at + 2 + (isShort ? 0 : first - 0x80)
    const end = start + (isShort ? first : der.readUIntBE(at + 2, first - 0x80))
    if (end > der.length || (tag & 0x1f) === 0x1f) throw new Error('it is not DER')
    found.push({ tag, content: der.subarray(start, end), whole: der.subarray(at, end) })
    at = end
  }
  return found
}
