/** Two peers open a QUIC link through sockets that a punch opened; the routers between them are in test/natlab. */
import assert from 'node:assert/strict'
import { Module } from 'node:module'
import { test } from 'node:test'
import type { Connection } from '@libp2p/interface'
import { linkKind } from '../../node/net/link-kind.ts'
import { Puncher } from '../../node/net/punch/puncher.ts'
import { SIGNALING_PROTOCOL } from '../../node/net/webrtc/transport.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import type { BarePeer } from '../helpers/bare-peer.ts'
import type { Teardown } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const ECHO = '/test/echo/1'

async function startPuncher(t: Teardown, { mesh }: BarePeer): Promise<{ puncher: Puncher; events: string[] }> {
  const events: string[] = []
  const puncher = new Puncher({
    mesh,
    parts: mesh.services.parts,
    port: 0,
    log: (event, fields) => events.push(`${event} ${JSON.stringify(fields)}`),
  })
  await puncher.start()
  t.after(() => puncher.stop())
  return { puncher, events }
}

function linksTo(from: BarePeer, to: BarePeer): Connection[] {
  return from.mesh.getConnections(to.mesh.peerId).filter((connection) => connection.status === 'open')
}

test('a punch opens a QUIC link beside the one it was agreed on, and it carries streams', async (t) => {
  const a = await startBarePeer(t, { swarm: 'punch', connectTo: [] })
  const b = await startBarePeer(t, { swarm: 'punch', connectTo: a.mesh.getMultiaddrs().map(String) })
  const atA = await startPuncher(t, a)
  const atB = await startPuncher(t, b)
  await a.mesh.handle(ECHO, async (stream) => {
    for await (const data of stream) stream.send(data)
  })

  const opened = await atB.puncher.punch(linksTo(b, a)[0]!, AbortSignal.timeout(20_000))
  assert.deepEqual(
    opened.map((link) => link.kind),
    ['quic'],
    [...atA.events, ...atB.events].join('\n'),
  )
  const quic = linksTo(b, a).find((connection) => linkKind(connection) === 'quic')!
  assert.ok(!quic.remoteAddr.toString().includes('/ip4/127.0.0.1/'), `the link is named by its face: ${quic.remoteAddr.toString()}`)
  const inbound = await until(() => linksTo(a, b).find((connection) => linkKind(connection) === 'quic') ?? null, {
    what: 'the other side has the link',
    timeoutMs: 5_000,
  })
  assert.equal(inbound.direction, 'inbound')

  const stream = await quic.newStream(ECHO)
  const sent = new Uint8Array(300_000).map((_, i) => i)
  const received: Uint8Array[] = []
  const echoed = new Promise<void>((resolve) => {
    stream.addEventListener('message', ({ data }) => {
      received.push(data.subarray())
      if (received.reduce((sum, part) => sum + part.length, 0) === sent.length) resolve()
    })
  })
  if (!stream.send(sent)) await stream.onDrain({ signal: AbortSignal.timeout(5_000) })
  await echoed
  assert.deepEqual(Buffer.concat(received), Buffer.from(sent))
  assert.ok(!atA.puncher.isPunching(b.peer) && !atB.puncher.isPunching(a.peer))
})

test('where the native part of WebRTC is missing a node says so, and punches without it', async (t) => {
  const loader = Module as unknown as { _resolveFilename: (request: string, ...rest: unknown[]) => string }
  const resolve = loader._resolveFilename
  loader._resolveFilename = (request, ...rest) => {
    if (request.startsWith('@node-datachannel/')) throw new Error(`there is no ${request}`)
    return resolve(request, ...rest)
  }
  t.after(() => (loader._resolveFilename = resolve))
  const a = await startBarePeer(t, { swarm: 'punch', connectTo: [] })
  const b = await startBarePeer(t, { swarm: 'punch', connectTo: a.mesh.getMultiaddrs().map(String) })
  const [atA, atB] = [await startPuncher(t, a), await startPuncher(t, b)]
  for (const { mesh } of [a, b]) assert.ok(!mesh.getProtocols().includes(SIGNALING_PROTOCOL))
  for (const { events } of [atA, atB]) assert.match(events[0]!, /^punch\.webrtc\.missing .*@node-datachannel\/\S+ is not installed/)
  const opened = await atB.puncher.punch(linksTo(b, a)[0]!, AbortSignal.timeout(20_000))
  assert.equal(opened.length, 1, [...atA.events, ...atB.events].join('\n'))
})
