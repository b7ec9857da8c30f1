import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { Liveness } from '../../../node/net/liveness.ts'
import { until } from '../../helpers/until.ts'

/** A mesh whose peers can be dialled or not, as the test says. */
async function livenessOf(t: TestContext, init: { canBeDialled: () => boolean; heardAt?: () => number | null }) {
  const events = new EventTarget()
  const peer = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
  let dials = 0
  const gone: string[] = []
  const liveness = new Liveness({
    mesh: {
      dial: async () => {
        dials++
        if (!init.canBeDialled()) throw new Error('refused')
        return {} as never
      },
      getConnections: () => [],
      addEventListener: (name: string, listener: never) => events.addEventListener(name, listener),
      removeEventListener: (name: string, listener: never) => events.removeEventListener(name, listener),
    } as never,
    heardAt: init.heardAt ?? (() => 0),
    log: (event, fields) => event === 'peer.gone' && gone.push(String(fields['peer'])),
  })
  liveness.start()
  t.after(() => liveness.stop())
  const emit = (name: string): boolean => events.dispatchEvent(new CustomEvent<PeerId>(name, { detail: peer }))
  return { liveness, peer: peer.toString(), emit, gone, dials: () => dials }
}

test('a peer that is lost and cannot be dialled is gone, until it is heard of again', async (t) => {
  let heardAt = 0
  const { liveness, peer, emit, gone } = await livenessOf(t, { canBeDialled: () => false, heardAt: () => heardAt })
  assert.equal(liveness.isGone(peer), false)
  emit('peer:disconnect')
  await until(() => gone.length === 1, { what: 'the peer is gone' })
  assert.deepEqual([gone[0], liveness.isGone(peer)], [peer, true])
  heardAt = Date.now() + 1
  assert.equal(liveness.isGone(peer), false)
})

test('a peer that comes back is not gone any more', async (t) => {
  const { liveness, peer, emit, gone } = await livenessOf(t, { canBeDialled: () => false })
  emit('peer:disconnect')
  await until(() => gone.length === 1, { what: 'the peer is gone' })
  emit('peer:connect')
  assert.equal(liveness.isGone(peer), false)
})

test('a peer that was never connected and cannot be dialled is gone once somebody relies on it', async (t) => {
  const { liveness, peer, gone, dials } = await livenessOf(t, { canBeDialled: () => false })
  await liveness.verify([peer, peer])
  assert.deepEqual([liveness.isGone(peer), gone, dials()], [true, [peer], 2])
  const alive = await livenessOf(t, { canBeDialled: () => true })
  await alive.liveness.verify([alive.peer])
  await alive.liveness.verify([alive.peer])
  assert.deepEqual([alive.liveness.isGone(alive.peer), alive.dials()], [false, 1], 'it is not dialled again at once')
})

test('a connection that broke and can be made again says nothing', async (t) => {
  const { liveness, peer, emit, gone, dials } = await livenessOf(t, { canBeDialled: () => true })
  emit('peer:disconnect')
  await until(() => dials() === 1, { what: 'the peer is dialled' })
  assert.deepEqual([liveness.isGone(peer), gone], [false, []])
})

test('peers that the ledger does not know are left alone, and a stop ends what is under way', async (t) => {
  const stranger = await livenessOf(t, { canBeDialled: () => false, heardAt: () => null })
  stranger.emit('peer:disconnect')
  assert.equal(stranger.dials(), 0)
  const known = await livenessOf(t, { canBeDialled: () => false })
  known.emit('peer:disconnect')
  known.liveness.stop()
  known.emit('peer:disconnect')
  assert.ok(known.dials() <= 1)
  assert.deepEqual(known.gone, [])
})
