import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeCredential, encodeCredential, extendCredential, isCredentialOf } from '../../../protocols/membership/credential.ts'
import {
  areTermsSigned,
  decodeClaim,
  encodeClaim,
  isPossessed,
  possessionBytes,
  signTerms,
} from '../../../protocols/membership/invite-claim.ts'
import { decodeMessage, encodeMessage } from '../../../protocols/membership/messages.ts'
import type { MembershipMessage } from '../../../protocols/membership/messages.ts'
import { isProof, prove } from '../../../protocols/membership/proof.ts'
import { MEMBERSHIP_LIMITS } from '../../../protocols/membership/protocol.ts'
import { inviteKeyOf, signWithSeed } from '../../../node/swarm/invite.ts'
import { privateSwarm } from '../../../node/swarm/swarm.ts'
import { vector } from '../../helpers/vector.ts'

/** 32 bytes that stand for the word. */
const bytes = (word: string): Uint8Array => createHash('sha256').update(word).digest()
const keyOf = (word: string): Uint8Array => inviteKeyOf(bytes(word))
const signer = (word: string) => (message: Uint8Array) => signWithSeed(bytes(word), message)

const FOUNDER = keyOf('founder')
const SWARM = privateSwarm('circle', bytes('secret'), FOUNDER)
const TRANSCRIPT = {
  swarm: SWARM.tag,
  dialerNonce: bytes('nonce of the dialler'),
  listenerNonce: bytes('nonce of the listener'),
  dialer: keyOf('dialler'),
  listener: FOUNDER,
}
const issuedBy = (word: string, credential: Parameters<typeof encodeCredential>[0] = []) => ({
  swarm: SWARM.tag,
  issuer: keyOf(word),
  credential,
  sign: signer(word),
})

/** The messages of a conversation in which the founder admits the dialler. */
async function conversation(): Promise<Record<string, MembershipMessage>> {
  const terms = { inviter: FOUNDER, inviteKey: keyOf('invite'), expiresAt: 1_800_000_000_000, uses: 2 }
  const signed = await signTerms(SWARM.tag, terms, signer('founder'))
  const possession = signWithSeed(bytes('invite'), possessionBytes(TRANSCRIPT))
  const granted = await extendCredential(issuedBy('founder'), TRANSCRIPT.dialer, 1_790_000_000_000)
  return {
    hello: { kind: 'hello', nonce: TRANSCRIPT.dialerNonce },
    challenge: {
      kind: 'challenge',
      nonce: TRANSCRIPT.listenerNonce,
      mac: prove(SWARM.proofKey, 'listener', TRANSCRIPT),
      timeMs: 1_790_000_000_000,
      credential: new Uint8Array(),
    },
    'proof-claim': {
      kind: 'proof',
      mac: prove(SWARM.proofKey, 'dialer', TRANSCRIPT),
      papers: { kind: 'claim', bytes: encodeClaim({ ...signed, possession }) },
    },
    'proof-credential': {
      kind: 'proof',
      mac: prove(SWARM.proofKey, 'dialer', TRANSCRIPT),
      papers: { kind: 'credential', bytes: encodeCredential(granted) },
    },
    'verdict-granted': { kind: 'verdict', verdict: 'member', credential: encodeCredential(granted) },
    'verdict-used-up': { kind: 'verdict', verdict: 'usedUp', credential: new Uint8Array() },
  }
}

test('the vectors are these messages, both ways', async () => {
  for (const [name, message] of Object.entries(await conversation())) {
    const expected = vector('membership', name)
    assert.equal(Buffer.from(encodeMessage(message)).toString('hex'), Buffer.from(expected).toString('hex'), name)
    assert.deepEqual(plain(decodeMessage(expected, message.kind)), plain(message), name)
  }
})

test('a message that is cut off, unknown or out of turn is refused', async () => {
  for (const message of Object.values(await conversation())) {
    const whole = encodeMessage(message)
    const least = { hello: 33, challenge: 73, proof: 34, verdict: 3 }[message.kind]
    for (let length = 0; length < least; length++)
      assert.throws(() => decodeMessage(whole.subarray(0, length), message.kind), { name: 'InvalidMessageError' })
    assert.throws(() => decodeMessage(whole, message.kind === 'hello' ? 'proof' : 'hello'), { name: 'InvalidMessageError' })
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (noise) => {
      for (const read of [() => decodeMessage(noise, 'proof'), () => decodeCredential(noise), () => decodeClaim(noise)]) {
        try {
          read()
        } catch (error) {
          assert.equal((error as Error).name, 'InvalidMessageError')
        }
      }
    }),
  )
})

test('a verdict of the future is a refusal', () => {
  assert.equal(decodeMessage(Uint8Array.of(4, 0x03, 0xe7), 'verdict').verdict, 'notAdmitted')
})

test('a proof holds for its key, its role and its connection alone', () => {
  const mac = prove(SWARM.proofKey, 'dialer', TRANSCRIPT)
  assert.ok(isProof(mac, SWARM.proofKey, 'dialer', TRANSCRIPT))
  assert.ok(!isProof(mac, SWARM.proofKey, 'listener', TRANSCRIPT))
  assert.ok(!isProof(mac, bytes('another key'), 'dialer', TRANSCRIPT))
  for (const field of Object.keys(TRANSCRIPT))
    assert.ok(!isProof(mac, SWARM.proofKey, 'dialer', { ...TRANSCRIPT, [field]: bytes('x') }), field)
  assert.ok(!isProof(mac.subarray(1), SWARM.proofKey, 'dialer', TRANSCRIPT))
})

test('a credential leads from the founder, link by link, to its subject', async () => {
  const [ann, ben] = [keyOf('ann'), keyOf('ben')]
  const first = await extendCredential(issuedBy('founder'), ann, 1)
  const second = await extendCredential(issuedBy('ann', first), ben, 2)
  const of = (subject: Uint8Array, founder = FOUNDER) => ({ swarm: SWARM.tag, founder, subject })
  assert.ok(isCredentialOf([], of(FOUNDER)))
  assert.ok(isCredentialOf(first, of(ann)) && isCredentialOf(decodeCredential(encodeCredential(second)), of(ben)))
  assert.ok(!isCredentialOf(second, of(ann)) && !isCredentialOf(first, of(ben)) && !isCredentialOf(second, of(ben, ann)))
  assert.ok(!isCredentialOf(second.slice(1), of(ben)))
  assert.ok(!isCredentialOf([{ ...first[0]!, issuedAt: 3 }], of(ann)))
  assert.ok(!isCredentialOf(first, { ...of(ann), swarm: bytes('another swarm') }))
})

test('a chain of invites ends somewhere', async () => {
  let credential: Awaited<ReturnType<typeof extendCredential>> = []
  for (let i = 0; i < MEMBERSHIP_LIMITS.maxCredentialLinks; i++)
    credential = await extendCredential(issuedBy('founder', credential), FOUNDER, i)
  await assert.rejects(extendCredential(issuedBy('founder', credential), FOUNDER, 0), { name: 'InvalidMessageError' })
  const whole = encodeCredential(credential)
  assert.ok(whole.length + 64 < MEMBERSHIP_LIMITS.maxMessageBytes)
  assert.throws(() => decodeCredential(Buffer.concat([whole, whole.subarray(0, 104)])), { name: 'InvalidMessageError' })
})

test('a claim holds for its terms and its connection alone', async () => {
  const message = (await conversation())['proof-claim']
  assert.ok(message?.kind === 'proof')
  const claim = decodeClaim(message.papers.bytes)
  assert.ok(areTermsSigned(SWARM.tag, claim) && isPossessed(claim, TRANSCRIPT))
  assert.ok(!areTermsSigned(SWARM.tag, { ...claim, uses: 3 }) && !areTermsSigned(SWARM.tag, { ...claim, expiresAt: claim.expiresAt + 1 }))
  assert.ok(!areTermsSigned(bytes('another swarm'), claim))
  assert.ok(!isPossessed(claim, { ...TRANSCRIPT, dialer: keyOf('a thief') }))
})

/** Buffers and arrays of bytes alike. */
function plain(message: MembershipMessage): unknown {
  return JSON.parse(JSON.stringify(message, (_, value: unknown) => (value instanceof Uint8Array ? [...value] : toPlain(value))))
}

function toPlain(value: unknown): unknown {
  return typeof value === 'object' && value !== null && 'type' in value && value.type === 'Buffer' && 'data' in value ? value.data : value
}
