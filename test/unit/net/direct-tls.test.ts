import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Connection, Libp2p } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { directTls } from '../../../node/net/direct-tls.ts'
import { until } from '../../helpers/until.ts'

type Encrypter = ReturnType<typeof directTls>
const ECHO = '/test/echo/1'
const DIAL_TIMEOUT_MS = 10_000
const MIB = 1024 * 1024

async function startPeer(t: TestContext, encrypter: Encrypter, tcpInit: Parameters<typeof tcp>[0] = {}): Promise<Libp2p> {
  const peer = await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp(tcpInit)],
    connectionEncrypters: [encrypter],
    streamMuxers: [yamux()],
    connectionMonitor: { enabled: false },
  })
  t.after(() => peer.stop())
  await peer.handle(ECHO, async (stream) => {
    for await (const chunk of stream) if (!stream.send(chunk)) await stream.onDrain()
    await stream.close()
  })
  return peer
}

async function dial(from: Libp2p, to: Libp2p): Promise<Connection> {
  return await from.dial(to.getMultiaddrs()[0]!, { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
}

/** Sends the bytes to the echo and returns the digest of what comes back. */
async function echo(connection: Connection, bytes: Uint8Array): Promise<string> {
  const stream = await connection.newStream(ECHO, { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
  const hash = createHash('sha256')
  const received = (async () => {
    for await (const chunk of stream) hash.update(chunk instanceof Uint8Array ? chunk : chunk.subarray())
  })()
  for (let at = 0; at < bytes.length; at += 50_000) if (!stream.send(bytes.subarray(at, at + 50_000))) await stream.onDrain()
  await stream.close()
  await received
  return hash.digest('hex')
}

const digestOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** An encrypter that begins with its part of the handshake when the other's first bytes are long there. */
function lateInbound(): Encrypter {
  const create = directTls()
  return (components) => {
    const encrypter = create(components)
    const inbound = encrypter.secureInbound.bind(encrypter)
    encrypter.secureInbound = async (connection, options) => {
      await until(() => connection.readBufferLength > 0, { what: 'first bytes of the handshake' })
      return await inbound(connection, options)
    }
    return encrypter
  }
}

for (const [name, client, server] of [
  ['both sides', directTls(), directTls()],
  ['dialling the library', directTls(), tls()],
  ['dialled by the library', tls(), directTls()],
  ['beginning late', directTls(), lateInbound()],
] as const) {
  test(`${name}: peers know each other, agree on the muxer and exchange megabytes`, async (t) => {
    const [a, b] = [await startPeer(t, client), await startPeer(t, server)]
    const connection = await dial(a, b)
    assert.equal(connection.encryption, '/tls/1.0.0')
    assert.equal(connection.multiplexer, '/yamux/1.0.0')
    assert.ok(connection.remotePeer.equals(b.peerId))
    const [accepted] = await until(() => b.getConnections().length > 0 && b.getConnections(), { what: 'the other side has the connection' })
    assert.ok(accepted!.remotePeer.equals(a.peerId))
    const bytes = [randomBytes(4 * MIB), randomBytes(1), randomBytes(3 * MIB)]
    assert.deepEqual(await Promise.all(bytes.map((part) => echo(connection, part))), bytes.map(digestOf))
  })
}

test('a peer that is not the one that was dialled is refused', async (t) => {
  const [a, b] = [await startPeer(t, directTls()), await startPeer(t, directTls())]
  const other = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
  const address = multiaddr(b.getMultiaddrs()[0]!.toString().replace(b.peerId.toString(), other.toString()))
  await assert.rejects(a.dial(address, { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) }), /unexpected|payload|expected/i)
  assert.equal(a.getConnections().length, 0)
  await until(() => b.getConnections().length === 0, { what: 'the refused side lets go' })
})

test('closing and aborting end the connection on both sides', async (t) => {
  const [a, b] = [await startPeer(t, directTls()), await startPeer(t, directTls())]
  for (const end of [(c: Connection) => c.close(), async (c: Connection) => c.abort(new Error('no more'))]) {
    const connection = await dial(a, b)
    const stream = await connection.newStream(ECHO)
    const ended = once(stream, 'close')
    await end(connection)
    await ended
    await until(() => a.getConnections().length === 0 && b.getConnections().length === 0, { what: 'both sides let go' })
  }
})

/** Forwards TCP to the peer and hands out the sockets of each connection. */
async function proxyTo(t: TestContext, peer: Libp2p): Promise<{ address: string; sockets: Socket[] }> {
  const port = Number(/tcp\/(\d+)/.exec(peer.getMultiaddrs()[0]!.toString())![1])
  const sockets: Socket[] = []
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    for (const socket of [near, far]) socket.on('error', () => {})
    near.pipe(far).pipe(near)
    sockets.push(near, far)
  })
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { address: `/ip4/127.0.0.1/tcp/${(server.address() as AddressInfo).port}/p2p/${peer.peerId.toString()}`, sockets }
}

test('a link that breaks closes the streams on both sides', async (t) => {
  const [a, b] = [await startPeer(t, directTls()), await startPeer(t, directTls())]
  const { address, sockets } = await proxyTo(t, b)
  const connection = await a.dial(multiaddr(address), { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
  const stream = await connection.newStream(ECHO)
  const ended = once(stream, 'close')
  for (const socket of sockets) socket.resetAndDestroy()
  await ended
  await until(() => a.getConnections().length === 0 && b.getConnections().length === 0, { what: 'both sides let go' })
})

test('bytes changed on the way end the connection', async (t) => {
  const [a, b] = [await startPeer(t, directTls()), await startPeer(t, directTls())]
  const { address, sockets } = await proxyTo(t, b)
  const connection = await a.dial(multiaddr(address), { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
  const stream = await connection.newStream(ECHO)
  const ended = once(stream, 'close')
  sockets[1]!.write(randomBytes(64))
  await ended
  await until(() => a.getConnections().length === 0 && b.getConnections().length === 0, { what: 'both sides let go' })
})

test('a peer that falls silent in the handshake does not hold up a dial', async (t) => {
  const [a, b] = [await startPeer(t, directTls()), await startPeer(t, lateForever())]
  await assert.rejects(a.dial(b.getMultiaddrs()[0]!, { signal: AbortSignal.timeout(500) }))
  assert.equal(a.getConnections().length, 0)
})

/** An encrypter that never begins with its part of the handshake. */
function lateForever(): Encrypter {
  const create = directTls()
  return (components) => {
    const encrypter = create(components)
    encrypter.secureInbound = (connection) =>
      new Promise((_, reject) => connection.addEventListener('close', () => reject(new Error('closed'))))
    return encrypter
  }
}

test('a connection in use outlives the inactivity timeout of its socket', async (t) => {
  const timeoutMs = 800
  const idle = { inboundSocketInactivityTimeout: timeoutMs, outboundSocketInactivityTimeout: timeoutMs }
  const [a, b] = [await startPeer(t, directTls(), idle), await startPeer(t, directTls(), idle)]
  const connection = await dial(a, b)
  const startedAt = performance.now()
  while (performance.now() - startedAt < 2 * timeoutMs) {
    assert.equal(await echo(connection, Uint8Array.of(1)), digestOf(Uint8Array.of(1)))
    await delay(timeoutMs / 16)
  }
  assert.equal(connection.status, 'open')
  await until(() => connection.status !== 'open', { what: 'the idle connection ends' })
})
