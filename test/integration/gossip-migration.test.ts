/** A relayed connection gives way to a direct one: gossip that went over the first goes on over the second. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { linkKind } from '../../node/net/link-kind.ts'
import type { LinkKind } from '../../node/net/link-kind.ts'
import type { Mesh } from '../../node/net/mesh.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import { createSwarm } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const TOPIC = 'test'
/** Nodes that have just met push what changed of their addresses and protocols. */
const QUIET_MS = 4_000

test('gossip goes on when the relayed connection that carried it ends and a direct one stays', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const relay = await swarm.start({ host: 'none', relay: 'on' })
  const [near, far] = await Promise.all([0, 1].map(() => startBarePeer(t, { swarm: swarm.name, connectTo: relay.addresses })))
  const identified = [identifications(near!.mesh, far!.peer), identifications(far!.mesh, near!.peer)]
  const heard = new Map([near!, far!].map(({ mesh }) => [mesh, listen(mesh)]))
  await until(async () => (await reserve(far!.mesh)) > 0, { what: 'a reservation' })

  const relayed = await near!.mesh.dial(multiaddr(`${relay.addresses[0]}/p2p-circuit/p2p/${far!.peer}`))
  assert.equal(linkKind(relayed), 'relay')
  await until(() => subscribed(near!.mesh, far!.mesh), { what: 'gossip over the relay' })
  const direct = await near!.mesh.dial(
    far!.mesh.getMultiaddrs().filter((address) => !address.toString().includes('p2p-circuit')),
    { force: true },
  )
  assert.equal(linkKind(direct), 'tcp')
  // Gossip looks at connections when they are identified, which is now and not again.
  await until(() => identified.every(({ kinds, at }) => kinds.has('tcp') && performance.now() - at > QUIET_MS), { what: 'identification' })
  await relayed.close()

  for (const [from, to] of [
    [near!, far!],
    [far!, near!],
  ] as const) {
    const text = `from ${from.peer}`
    await until(
      async () => {
        await from.mesh.services.pubsub.publish(TOPIC, new TextEncoder().encode(`${text} ${performance.now()}`))
        return heard.get(to.mesh)!.some((message) => message.startsWith(text))
      },
      { what: `gossip ${text}`, timeoutMs: 15_000, intervalMs: 200 },
    )
  }
})

/** What the node hears of the topic. */
function listen(mesh: Mesh): string[] {
  const heard: string[] = []
  mesh.services.pubsub.subscribe(TOPIC)
  mesh.services.pubsub.addEventListener('message', ({ detail }) => heard.push(new TextDecoder().decode(detail.data)))
  return heard
}

/** What carries the connections with a peer that have been identified, and when the latest was. */
function identifications(mesh: Mesh, peer: string): { kinds: Set<LinkKind>; at: number } {
  const seen = { kinds: new Set<LinkKind>(), at: 0 }
  mesh.addEventListener('peer:identify', ({ detail }) => {
    if (detail.peerId.toString() === peer) seen.kinds.add(linkKind(detail.connection))
    seen.at = performance.now()
  })
  return seen
}

function subscribed(a: Mesh, b: Mesh): boolean {
  const knows = (one: Mesh, other: Mesh): boolean => one.services.pubsub.getSubscribers(TOPIC).some((peer) => peer.equals(other.peerId))
  return knows(a, b) && knows(b, a)
}

/** Asks the one relay that the node is connected to; resolves with the reservations held. */
async function reserve(mesh: Mesh): Promise<number> {
  const [relay] = mesh.getPeers()
  if (relay !== undefined) await mesh.services.relayDesk.reserve(relay).catch(() => {})
  return mesh.services.relayDesk.held().length
}
