/** Links over WebRTC, for which a relay carries the signals only. The routers between them are in test/natlab. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { test } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Connection } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { PeerConnection } from 'node-datachannel'
import { linkKind } from '../../node/net/link-kind.ts'
import { isRelayed } from '../../node/net/relay-desk.ts'
import { releaseLibrary, useLibrary } from '../../node/net/webrtc/library.ts'
import { SIGNALING_PROTOCOL } from '../../node/net/webrtc/transport.ts'
import { openGate, PrivateGate } from '../../node/swarm/gatekeeper.ts'
import type { Gatekeeper } from '../../node/swarm/gatekeeper.ts'
import { InviteBook } from '../../node/swarm/invite-book.ts'
import { foundSwarm } from '../../node/swarm/swarm-file.ts'
import { openSwarm } from '../../node/swarm/swarm.ts'
import { EXPERT_PROTOCOL } from '../../protocols/expert/index.ts'
import { ID as LEDGER_PROTOCOL } from '../../protocols/ledger/index.ts'
import { bindingRequestOf, encodeBindingResponse } from '../../protocols/punch/index.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import type { BarePeer } from '../helpers/bare-peer.ts'
import { goldenPrompts } from '../helpers/prompts.ts'
import { ask, createSwarm, untilReady } from '../helpers/swarm.ts'
import type { Answer, Teardown } from '../helpers/swarm.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'
import { until } from '../helpers/until.ts'

/** Of the golden ones. */
const PROMPTS = 3
/** Nobody reaches such a node directly but over WebRTC. */
const HIDDEN = Object.freeze({ listen: [] as string[], relay: 'off', punchBy: ['webrtc'], punchPort: 0 })
const BIT_EQUAL = Object.freeze({ wire: 'f32', combine: 'driver', logprobs: 5 } as const)
const ECHO = '/test/echo/1'

interface Pair {
  readonly relay: BarePeer
  readonly host: BarePeer
  readonly guest: BarePeer
  /** Of the host, over the relay. */
  readonly address: string
}

interface PairInit {
  readonly gate?: Gatekeeper
  readonly hostGate?: Gatekeeper
  readonly guestSwarm?: string
}

async function startPair(t: Teardown, { gate = openGate(openSwarm('webrtc')), hostGate = gate, guestSwarm }: PairInit = {}): Promise<Pair> {
  const relay = await startBarePeer(t, { swarm: 'webrtc', connectTo: [], gate })
  await relay.mesh.services.relay.open()
  const connectTo = [String(relay.mesh.getMultiaddrs()[0])]
  const host = await startBarePeer(t, { swarm: 'webrtc', connectTo, listen: [], gate: hostGate })
  const guestGate = guestSwarm === undefined ? gate : openGate(openSwarm(guestSwarm))
  const guest = await startBarePeer(t, { swarm: 'webrtc', connectTo, listen: [], gate: guestGate })
  await host.mesh.services.relayDesk.reserve(relay.mesh.peerId)
  await host.mesh.services.parts.webRtc.serve(() => [])
  return { relay, host, guest, address: `${connectTo[0]}/p2p-circuit/webrtc/p2p/${host.peer}` }
}

function linkTo(from: BarePeer, to: BarePeer): Connection | undefined {
  return from.mesh.getConnections(to.mesh.peerId).find((one) => one.status === 'open' && linkKind(one) === 'webrtc')
}

test('a peer is dialled over WebRTC, and stays connected without the relay', async (t) => {
  const { relay, host, guest, address } = await startPair(t)
  await host.mesh.handle(ECHO, async (stream) => {
    for await (const data of stream) stream.send(data)
  })
  const connection = await guest.mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) })
  assert.deepEqual([linkKind(connection), isRelayed(connection)], ['webrtc', false])
  await relay.stop()
  const inbound = await until(() => linkTo(host, guest), { what: 'the other end' })
  assert.deepEqual([inbound.direction, isRelayed(inbound)], ['inbound', false])

  const stream = await connection.newStream(ECHO, { signal: AbortSignal.timeout(5_000) })
  const sent = new Uint8Array(300_000).map((_, i) => i)
  const received: Uint8Array[] = []
  const echoed = Promise.withResolvers<void>()
  stream.addEventListener('message', ({ data }) => {
    received.push(data.subarray())
    if (received.reduce((sum, part) => sum + part.length, 0) === sent.length) echoed.resolve()
  })
  if (!stream.send(sent)) await stream.onDrain({ signal: AbortSignal.timeout(5_000) })
  await echoed.promise
  assert.deepEqual(Buffer.concat(received), Buffer.from(sent))

  connection.abort(new Error('the test has seen enough'))
  await until(() => linkTo(host, guest) === undefined, { what: 'the other end closes' })
})

test('nobody signals who has not proved to belong to the swarm', async (t) => {
  const { host, guest, address } = await startPair(t, { guestSwarm: 'elsewhere' })
  // Its own side would not even try: it speaks past its guard.
  guest.mesh.services.membership.proved = async () => {}
  await assert.rejects(guest.mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(5_000) }))
  assert.equal(linkTo(host, guest), undefined)
})

test('a private swarm serves nothing on a link on which membership was not proved, though it was on the relayed one', async (t) => {
  const privateKey = await generateKeyPair('Ed25519')
  const membership = foundSwarm('circle', privateKey.publicKey.raw)
  const invites = await InviteBook.open(await temporaryDir(t), 'circle')
  const strict = new PrivateGate({ membership, invites, privateKey, save: async () => {}, log: () => {} })
  // Who has the swarm's key, and no admission, gets through until there is a link.
  const gate = openGate(membership.swarm)
  let isStrict = false
  const judge: Gatekeeper['judge'] = async (...args) => await (isStrict ? strict : gate).judge(...args)
  const { host, guest, address } = await startPair(t, { gate, hostGate: { ...gate, judge } })
  host.mesh.addEventListener('connection:open', ({ detail }) => void (isStrict ||= linkKind(detail) === 'webrtc'))
  let streams = 0
  for (const protocol of [EXPERT_PROTOCOL, LEDGER_PROTOCOL]) await host.mesh.handle(protocol, () => void streams++)
  const served = host.mesh.getProtocols().filter((protocol) => !/^\/(ipfs|skein\/membership)\//.test(protocol))
  for (const kind of [/kad/, /meshsub/, /expert/, /ledger/, /webrtc/]) {
    assert.ok(
      served.some((protocol) => kind.test(protocol)),
      served.join(),
    )
  }

  const connection = await guest.mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) })
  assert.equal(linkKind(connection), 'webrtc')
  guest.mesh.services.membership.proved = async () => {}
  await Promise.all(
    served.map(async (protocol) => {
      const answers = async (): Promise<void> => {
        const stream = await connection.newStream(protocol, { signal: AbortSignal.timeout(5_000) })
        stream.send(new Uint8Array(4))
        for await (const _ of stream) return
        throw new Error('the stream ended')
      }
      await assert.rejects(answers(), protocol)
    }),
  )
  await until(() => linkTo(host, guest) === undefined, { what: 'the host ends the link' })
  assert.equal(streams, 0)
  assert.match(host.mesh.services.membership.refusals().get(guest.peer)!, /notAdmitted/)
})

test('members of a private swarm use a link', async (t) => {
  const { host, guest, address } = await startPair(t, { gate: openGate(foundSwarm('circle', randomBytes(32)).swarm) })
  const connection = await guest.mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) })
  let streams = 0
  await host.mesh.handle(EXPERT_PROTOCOL, () => void streams++)
  await connection.newStream(EXPERT_PROTOCOL, { signal: AbortSignal.timeout(5_000) })
  await until(() => streams === 1, { what: 'the stream' })
})

test('text on a channel ends the channel, not the node', async (t) => {
  const { host, guest, address } = await startPair(t)
  await host.mesh.handle(ECHO, () => {})
  const connection = await guest.mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) })
  await guest.mesh.services.membership.proved(connection)
  const stream = await connection.newStream(ECHO, { signal: AbortSignal.timeout(5_000) })
  const { channel } = stream as unknown as { channel: { send(data: string): void } }
  channel.send('9999999999999')
  await until(() => stream.status !== 'open', { what: 'the channel is closed' })
  assert.ok((await guest.mesh.services.ping.ping(host.mesh.peerId, { signal: AbortSignal.timeout(5_000) })) >= 0)
  assert.notEqual(linkTo(guest, host), undefined)
})

test('signals that are malformed or end early leave no connection, and room for the next', async (t) => {
  const { host, guest, relay, address } = await startPair(t)
  const circuit = await guest.mesh.dial(multiaddr(`${relay.mesh.getMultiaddrs()[0]!.toString()}/p2p-circuit/p2p/${host.peer}`))
  const offer = (sdp: string): Uint8Array => {
    const text = Buffer.from(sdp)
    return Buffer.concat([Uint8Array.of(text.length + 4, 0x08, 0, 0x12, text.length), text])
  }
  // More than may be under way at once.
  for (const bytes of [[], [0xff, 0xff, 0xff, 0xff, 0x7f], [3, 1, 2, 3], [2, 0x08, 9], ...Array.from({ length: 8 }, () => offer('v=0'))]) {
    const stream = await circuit.newStream(SIGNALING_PROTOCOL, { signal: AbortSignal.timeout(10_000) })
    stream.send(Uint8Array.from(bytes))
    await stream.close({ signal: AbortSignal.timeout(10_000) })
    await until(() => stream.status !== 'open', { what: 'the host gives up' })
  }
  assert.equal(linkTo(host, guest), undefined)
  const connection = await guest.mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) })
  assert.equal(linkKind(connection), 'webrtc')
})

test('ICE understands what a reflector of the swarm says', async (t) => {
  const reflector = createSocket('udp4')
  reflector.on('message', (packet, from) => {
    const transaction = bindingRequestOf(packet)
    const seen = { address: '203.0.113.5', port: 4_000 }
    if (transaction !== null) reflector.send(encodeBindingResponse(transaction, seen), from.port, from.address)
  })
  await new Promise<void>((resolve) => reflector.bind(0, '127.0.0.1', resolve))
  t.after(() => reflector.close())
  await useLibrary()
  t.after(releaseLibrary)
  const connection = new PeerConnection('test', { iceServers: [`stun:127.0.0.1:${reflector.address().port}`] })
  t.after(() => connection.close())
  const found: string[] = []
  connection.onLocalCandidate((candidate) => void found.push(candidate))
  connection.createDataChannel('')
  await until(() => found.some((candidate) => /203\.0\.113\.5 4000 typ srflx/.test(candidate)), {
    what: 'the address that the reflector told',
  })
})

test('answers of a host that is reached over WebRTC only have the bits of one process', { timeout: 60_000 }, async (t) => {
  const prompts = goldenPrompts().slice(0, PROMPTS)
  const swarm = await createSwarm(t)
  const alone = await swarm.start({ host: 'all', swarm: 'alone', bootstrap: [] })
  const expected: Answer[] = []
  for (const prompt of prompts) expected.push(await ask(alone, prompt, BIT_EQUAL))
  await alone.stop()

  const relay = await swarm.start({ host: 'none', relay: 'on', bootstrap: [] })
  const host = await swarm.start({ ...HIDDEN, host: 'all', bootstrap: relay.addresses })
  await until(() => host.status().relay.using.length === 1, { what: 'the reservation of the host' })
  const gateway = await swarm.start({ ...HIDDEN, host: 'none', bootstrap: relay.addresses })
  await untilReady(gateway, 1)
  const link = (): string | null => gateway.status().peers.find(({ peer }) => peer === host.peer)?.address ?? null
  await until(() => link()?.includes('/webrtc/') === true, { what: 'the direct link' })
  await relay.stop()
  for (const [i, prompt] of prompts.entries()) {
    const { tokens, logprobs, report } = await ask(gateway, prompt, BIT_EQUAL)
    assert.deepEqual(tokens, expected[i]!.tokens)
    assert.deepEqual(logprobs, expected[i]!.logprobs)
    assert.deepEqual(
      [report.exact, report.calls.local, report.calls.retried, report.hosts.map(({ peer }) => peer)],
      [true, 0, 0, [host.peer]],
    )
  }
  assert.match(link()!, /^\/webrtc\//)
})
