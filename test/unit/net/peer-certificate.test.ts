import assert from 'node:assert/strict'
import { randomInt, X509Certificate } from 'node:crypto'
import { test } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { generateCertificate } from '@libp2p/tls/utils'
import { peerOfCertificate } from '../../../node/net/peer-certificate.ts'

const INVALID = { name: 'InvalidCryptoExchangeError' }
const DAY_MS = 24 * 3600 * 1000

async function certificateOf(key: PrivateKey): Promise<X509Certificate> {
  return new X509Certificate((await generateCertificate(key)).cert)
}

for (const type of ['Ed25519', 'secp256k1', 'RSA'] as const) {
  test(`the certificate of a peer with a key of type ${type} names it`, async () => {
    const key = await generateKeyPair(type)
    assert.ok((await peerOfCertificate(await certificateOf(key))).equals(peerIdFromPrivateKey(key)))
  })
}

test('a certificate that was changed or cut off anywhere names nobody', { timeout: 60_000 }, async () => {
  const { raw: der } = await certificateOf(await generateKeyPair('Ed25519'))
  const read = async (bytes: Buffer): Promise<unknown> => await peerOfCertificate(new X509Certificate(bytes))
  const change = randomInt(1, 256)
  for (let at = 0; at < der.length; at++) {
    const changed = Buffer.from(der)
    changed[at] = changed[at]! ^ change
    await assert.rejects(read(changed), Error, `byte ${at} xor ${change}`)
    await assert.rejects(read(der.subarray(0, at)), Error, `the first ${at} bytes`)
  }
})

test("a certificate with another peer's key names nobody, whoever signed it and whatever that peer signed", async () => {
  const [thief, victim] = [await generateKeyPair('Ed25519'), await generateKeyPair('Ed25519')]
  const signatures = [
    (data: Uint8Array) => thief.sign(data),
    () => victim.sign(Buffer.from('libp2p-tls-handshake:')),
    () => new Uint8Array(),
  ]
  for (const sign of signatures) {
    const forged = { type: 'Ed25519', publicKey: victim.publicKey, sign } as unknown as PrivateKey
    await assert.rejects(peerOfCertificate(await certificateOf(forged)), INVALID)
  }
})

test('a certificate names nobody before and after the time for which it is valid', async (t) => {
  const certificate = await certificateOf(await generateKeyPair('Ed25519'))
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() - DAY_MS })
  await assert.rejects(peerOfCertificate(certificate), /not valid yet/)
  t.mock.timers.setTime(Date.now() + 101 * 365 * DAY_MS)
  await assert.rejects(peerOfCertificate(certificate), /expired/)
})
