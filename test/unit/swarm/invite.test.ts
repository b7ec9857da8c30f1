import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import fc from 'fast-check'
import { signTerms } from '../../../protocols/membership/index.ts'
import { InviteBook } from '../../../node/swarm/invite-book.ts'
import { inviteAddresses } from '../../../node/swarm/invite-addresses.ts'
import { decodeInvite, encodeInvite, inviteKeyOf, newSeed, signWithSeed } from '../../../node/swarm/invite.ts'
import type { Invite } from '../../../node/swarm/invite.ts'
import { foundSwarm, joinMembership, loadMembership, saveMembership } from '../../../node/swarm/swarm-file.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const PEER = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'
const ADDRESSES = [multiaddr(`/ip4/192.0.2.1/tcp/4115/p2p/${PEER}`), multiaddr(`/dns4/example.org/tcp/4115/p2p/${PEER}`)]

async function privateInvite(): Promise<Invite & { keys: NonNullable<Invite['keys']> }> {
  const [founderSeed, seed] = [newSeed(), newSeed()]
  const founder = inviteKeyOf(founderSeed)
  const terms = await signTerms(randomBytes(32), { inviter: founder, inviteKey: inviteKeyOf(seed), expiresAt: 5, uses: 1 }, (bytes) =>
    signWithSeed(founderSeed, bytes),
  )
  return { name: 'circle', expiresAt: 5, addresses: ADDRESSES, keys: { secret: randomBytes(32), founder, seed, terms } }
}

test('an invite survives pasting, line breaks and all', async () => {
  for (const invite of [await privateInvite(), { name: 'open', expiresAt: 1_800_000_000_000, addresses: ADDRESSES, keys: null }]) {
    const text = encodeInvite(invite)
    const read = decodeInvite(`  ${text.slice(0, 40)}\n  ${text.slice(40)}\r\n`)
    assert.deepEqual(read.addresses.map(String), ADDRESSES.map(String))
    assert.equal(encodeInvite(read), text)
    assert.ok(text.length < 700, `${text.length} characters`)
  }
})

test('an invite that is cut, mistyped, foreign or too long is refused with what to do', async () => {
  const text = encodeInvite(await privateInvite())
  const refuses = (wrong: string, message: RegExp): void => assert.throws(() => decodeInvite(wrong), { name: 'ConfigError', message })
  refuses('', /no invite.*copy the whole line/)
  refuses('https://example.org/join', /no invite/)
  refuses(text.slice(0, -5), /damaged or cut off/)
  refuses('skein1', /damaged or cut off/)
  refuses(text.slice(0, 30) + (text[30] === 'A' ? 'B' : 'A') + text.slice(31), /damaged or cut off/)
  refuses(`skein1${'A'.repeat(5_000)}`, /too long/)
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (noise) => {
      assert.throws(() => decodeInvite(noise), { name: 'ConfigError' })
      assert.throws(() => decodeInvite(`skein1${Buffer.from(noise).toString('base64url')}`), { name: 'ConfigError' })
    }),
  )
})

test('addresses that most newcomers can use come first', () => {
  const kinds = [
    `/ip4/127.0.0.1/tcp/1/p2p/${PEER}`,
    `/ip4/192.168.1.5/tcp/1/p2p/${PEER}`,
    `/ip4/52.1.1.1/tcp/1/p2p/${PEER}/p2p-circuit/p2p/${PEER}`,
    `/ip4/52.2.2.2/udp/1/quic-v1/p2p/${PEER}`,
    `/ip4/52.2.2.2/tcp/1/p2p/${PEER}`,
  ]
  assert.deepEqual(inviteAddresses(kinds.map((kind) => multiaddr(kind))).map(String), kinds.toReversed())
})

test('the book counts peers, not attempts, and keeps count over a restart', async (t) => {
  const dir = await temporaryDir(t)
  const [key, ann, ben, cid] = [randomBytes(32), randomBytes(32), randomBytes(32), randomBytes(32)]
  const book = await InviteBook.open(dir, 'circle')
  await book.add(key, 1_000_000 + Date.now(), 2)
  assert.equal(await book.admit(key, ann, Date.now()), 'admitted')
  assert.equal(await book.admit(key, ann, Date.now()), 'admitted')
  assert.equal(await book.admit(randomBytes(32), ann, Date.now()), 'unknown')
  const again = await InviteBook.open(dir, 'circle')
  assert.equal(await again.admit(key, ben, Date.now()), 'admitted')
  assert.equal(await again.admit(key, cid, Date.now()), 'usedUp')
  assert.equal(await again.admit(key, ann, Date.now() + 2_000_000), 'expired')
})

test('what a node keeps of a private swarm is for its owner only, and is read back whole', async (t) => {
  const dir = await temporaryDir(t)
  assert.equal(await loadMembership(dir, 'circle'), null)
  const own = foundSwarm('circle', inviteKeyOf(newSeed()))
  await saveMembership(dir, own)
  assert.equal((await stat(join(dir, 'swarms', 'circle.json'))).mode & 0o777, 0o600)
  assert.deepEqual((await loadMembership(dir, 'circle'))!.swarm.id, own.swarm.id)
  const invite = decodeInvite(encodeInvite(await privateInvite()))
  const joined = joinMembership(invite, null)
  await saveMembership(dir, joined)
  assert.deepEqual(await loadMembership(dir, 'circle'), joined)
  assert.throws(() => joinMembership(invite, own), { name: 'ConfigError', message: /another private swarm called "circle"/ })
})

test('private swarms of one name are different swarms', () => {
  const founder = inviteKeyOf(newSeed())
  assert.notEqual(foundSwarm('circle', founder).swarm.id, foundSwarm('circle', founder).swarm.id)
})
