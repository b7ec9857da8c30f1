/** Who is let into a swarm, over real connections. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { test } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey, Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { createMesh, startMesh } from '../../node/net/mesh.ts'
import type { Mesh } from '../../node/net/mesh.ts'
import { openMeshDatastore } from '../../node/net/mesh-datastore.ts'
import type { SkeinNode } from '../../node/node.ts'
import { openGate, PrivateGate } from '../../node/swarm/gatekeeper.ts'
import type { Gatekeeper } from '../../node/swarm/gatekeeper.ts'
import { InviteBook } from '../../node/swarm/invite-book.ts'
import { decodeInvite } from '../../node/swarm/invite.ts'
import { foundSwarm, joinMembership, loadMembership, saveMembership } from '../../node/swarm/swarm-file.ts'
import type { Membership } from '../../node/swarm/swarm-file.ts'
import { openSwarm } from '../../node/swarm/swarm.ts'
import { EXPERT_PROTOCOL } from '../../protocols/expert/index.ts'
import { ID as LEDGER_PROTOCOL } from '../../protocols/ledger/index.ts'
import { extendCredential } from '../../protocols/membership/index.ts'
import type { Credential } from '../../protocols/membership/index.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import { ask, createSwarm, untilReady } from '../helpers/swarm.ts'
import type { Teardown, TestSwarm } from '../helpers/swarm.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'
import { until } from '../helpers/until.ts'

const PROMPT = { messages: [{ role: 'user', content: 'Tell me a fairy tale about a king.' }] }
const HOUR_MS = 3_600_000
const inAnHour = (uses = 0): { expiresAt: number; uses: number } => ({ expiresAt: Date.now() + HOUR_MS, uses })

/** Starts a node that was given the invite. */
async function startInvited(swarm: TestSwarm, name: string, invite: string, flags: object = {}): Promise<SkeinNode> {
  const data = join(swarm.dir, name)
  const read = decodeInvite(invite)
  await saveMembership(data, joinMembership(read, await loadMembership(data, read.name)))
  return await swarm.start({ data, bootstrap: read.addresses.map((address) => address.toString()), ...flags })
}

test('invited nodes answer a query of a private swarm, and need the invite only once', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const founder = await swarm.start({ private: true, host: 'none' })
  const host = await startInvited(swarm, 'host', await founder.invite(inAnHour(1)), { host: 'all' })
  await untilReady(founder, 1)
  assert.equal((await ask(founder, PROMPT)).report.exact, true)
  // Its credential, and the founder's address, are on its disk.
  await host.stop()
  await until(() => founder.status().models[0]!.coverage.covered === 0, { what: 'the host is gone' })
  await swarm.start({ data: join(swarm.dir, 'host'), bootstrap: founder.addresses, host: 'all' })
  await untilReady(founder, 1)
})

test(
  'an invite admits as many as it says; other members admit in the inviter’s absence only where nothing is counted',
  { timeout: 90_000 },
  async (t) => {
    const swarm = await createSwarm(t)
    const founder = await swarm.start({ private: true, host: 'none' })
    const [once, often] = [await founder.invite(inAnHour(1)), await founder.invite(inAnHour())]
    const second = await startInvited(swarm, 'second', once, { host: 'none' })
    const knows = (a: SkeinNode, b: SkeinNode): boolean =>
      a.status().peers.some(({ peer, ledgerAgeSeconds }) => peer === b.peer && ledgerAgeSeconds !== null)
    await until(() => knows(founder, second), { what: 'the second node' })

    const late = await startInvited(swarm, 'late', once, { host: 'none' })
    await until(() => late.status().refused.some(({ reason }) => /as many nodes as it may/.test(reason)), { what: 'the refusal' })
    assert.equal(knows(founder, late), false)

    await founder.stop()
    const third = await startInvited(swarm, 'third', often, { host: 'none', bootstrap: second.addresses })
    await until(() => knows(second, third), { what: 'the third node' })
    const fourth = await startInvited(swarm, 'fourth', once, { host: 'none', bootstrap: second.addresses })
    await until(() => fourth.status().refused.some(({ reason }) => /only the node that made the invite/.test(reason)), {
      what: 'the refusal',
    })
  },
)

interface Gate {
  readonly gate: Gatekeeper
  readonly privateKey: Ed25519PrivateKey
}

/** A mesh on loopback whose TCP is not encrypted with the swarm's key, as QUIC and WebRTC never are. */
async function startUnprotected(t: Teardown, dir: string, { gate, privateKey }: Gate): Promise<Mesh> {
  const unprotected: Gatekeeper = {
    swarm: { ...gate.swarm, transportKey: null },
    credential: () => gate.credential(),
    papers: (transcript) => gate.papers(transcript),
    isAdmitted: (credential, peer) => gate.isAdmitted(credential, peer),
    judge: (papers, transcript) => gate.judge(papers, transcript),
    accept: (granted) => gate.accept(granted),
  }
  const datastore = await openMeshDatastore(join(dir, 'libp2p'))
  const listen = ['/ip4/127.0.0.1/tcp/0']
  const mesh = await createMesh({ privateKey, gate: unprotected, version: 'test', listen, bootstrap: [], mdns: false, datastore })
  t.after(async () => {
    await mesh.stop()
    await datastore.close()
  })
  await startMesh(mesh, listen)
  return mesh
}

/** The gate of a private swarm that this key has founded; `forge` changes what its file says. */
async function founded(
  dir: string,
  forge: (own: Membership, self: Uint8Array) => Promise<Membership> | Membership = (own) => own,
): Promise<Gate> {
  const privateKey = await generateKeyPair('Ed25519')
  const self = privateKey.publicKey.raw
  const membership = await forge(foundSwarm('circle', self), self)
  const invites = await InviteBook.open(dir, 'circle')
  return { privateKey, gate: new PrivateGate({ membership, invites, privateKey, save: async () => {}, log: () => {} }) }
}

test('where the transport key does not reach, nobody but a member gets a stream of any protocol', { timeout: 60_000 }, async (t) => {
  const dir = await temporaryDir(t)
  let real!: Membership
  let admit!: (subject: Uint8Array) => Promise<Credential>
  const host = await startUnprotected(
    t,
    join(dir, 'host'),
    await founded(dir, (own) => (real = own)).then((made) => {
      const { swarm } = real
      const init = { swarm: swarm.tag, issuer: swarm.founder!, credential: [], sign: (bytes: Uint8Array) => made.privateKey.sign(bytes) }
      admit = (subject) => extendCredential(init, subject, Date.now())
      return made
    }),
  )
  let streams = 0
  for (const protocol of [EXPERT_PROTOCOL, LEDGER_PROTOCOL]) await host.handle(protocol, () => void streams++)
  const served = host.getProtocols().filter((protocol) => !/^\/(ipfs|skein\/membership)\//.test(protocol))
  for (const kind of [/kad/, /meshsub/, /expert/, /ledger/])
    assert.ok(
      served.some((protocol) => kind.test(protocol)),
      served.join(),
    )
  const knock = async (peer: Mesh, protocol: string): Promise<Stream> => {
    const connection = await peer.dial(host.getMultiaddrs()[0]!, { signal: AbortSignal.timeout(5_000) })
    return await connection.newStream(protocol, { signal: AbortSignal.timeout(5_000) })
  }

  const strangers: [string, () => Promise<Gate>][] = [
    ['another swarm', () => founded(dir)],
    ['a wrong key', () => founded(dir, (own) => ({ ...own, swarm: { ...real.swarm, proofKey: randomBytes(32) } }))],
    ['the key without an admission', () => founded(dir, () => real)],
    [
      'an admission that it gave itself',
      async () => {
        const forger = await generateKeyPair('Ed25519')
        const init = {
          swarm: real.swarm.tag,
          issuer: forger.publicKey.raw,
          credential: [],
          sign: (bytes: Uint8Array) => forger.sign(bytes),
        }
        return await founded(dir, async (_, self) => ({ ...real, credential: await extendCredential(init, self, Date.now()) }))
      },
    ],
    ['the admission of somebody else', () => founded(dir, async () => ({ ...real, credential: await admit(randomBytes(32)) }))],
    ['an open swarm', async () => ({ gate: openGate(openSwarm('circle')), privateKey: await generateKeyPair('Ed25519') })],
  ]
  for (const [what, gateOf] of strangers) {
    const stranger = await startUnprotected(t, join(dir, what), await gateOf())
    // Its own side would not even try: it speaks past its guard.
    stranger.services.membership.proved = async () => {}
    for (const protocol of served) {
      const stream = await knock(stranger, protocol).catch(() => null)
      if (stream === null) continue
      const answers = async (): Promise<void> => {
        stream.send(new Uint8Array(4))
        for await (const _ of stream) return
        throw new Error('the stream ended')
      }
      await assert.rejects(answers(), `${what}: ${protocol}`)
    }
    await until(() => host.getConnections(stranger.peerId).length === 0, { what: `${what} is disconnected` })
  }
  assert.equal(streams, 0)

  const member = await startUnprotected(
    t,
    join(dir, 'member'),
    await founded(dir, async (_, self) => ({ ...real, credential: await admit(self) })),
  )
  for (const protocol of [EXPERT_PROTOCOL, LEDGER_PROTOCOL]) await knock(member, protocol)
  await until(() => streams === 2, { what: 'both streams of a member' })
})

test('nodes of two open swarms that meet serve each other nothing, and say why', { timeout: 30_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const node = await swarm.start({ host: 'all' })
  const stranger = await startBarePeer(t, { swarm: 'elsewhere', connectTo: node.addresses })
  for (const protocol of [EXPERT_PROTOCOL, LEDGER_PROTOCOL]) {
    await assert.rejects(
      stranger.mesh.dialProtocol(multiaddr(node.addresses[0]), protocol, { signal: AbortSignal.timeout(5_000) }),
      /another swarm/,
    )
  }
  // Relays and pings are for everybody.
  assert.ok((await stranger.mesh.services.ping.ping(multiaddr(node.addresses[0]))) >= 0)
  assert.match(stranger.mesh.services.membership.refusals().get(node.peer)!, /another swarm/)
})
