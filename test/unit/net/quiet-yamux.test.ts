import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { directTls } from '../../../node/net/direct-tls.ts'
import { quietYamux } from '../../../node/net/quiet-yamux.ts'
import { until } from '../../helpers/until.ts'

type Muxer = ReturnType<typeof quietYamux>
const ECHO = '/test/echo/1'
const SINK = '/test/sink/1'
const DIAL_TIMEOUT_MS = 10_000
const MIB = 1024 * 1024
/** What a stream may have on its way before the other side has read any of it. */
const WINDOW_BYTES = 256 * 1024

interface Peer {
  readonly node: Libp2p
  /** Streams of {@link SINK} that came in; nothing reads them. */
  readonly unread: Stream[]
}

async function startPeer(t: TestContext, muxer: Muxer): Promise<Peer> {
  const node = await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [directTls()],
    streamMuxers: [muxer],
    connectionMonitor: { enabled: false },
  })
  t.after(() => node.stop())
  const unread: Stream[] = []
  await node.handle(ECHO, async (stream) => {
    for await (const chunk of stream) if (!stream.send(chunk)) await stream.onDrain()
    await stream.close()
  })
  await node.handle(SINK, (stream) => {
    stream.pause()
    unread.push(stream)
  })
  return { node, unread }
}

async function dial(from: Peer, to: Peer): Promise<Connection> {
  return await from.node.dial(to.node.getMultiaddrs()[0]!, { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
}

const digestOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Sends the bytes in messages of a size to the echo and returns the digest of what comes back. */
async function echo(connection: Connection, bytes: Uint8Array, size: number): Promise<string> {
  const stream = await connection.newStream(ECHO, { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
  const hash = createHash('sha256')
  const received = (async () => {
    for await (const chunk of stream) hash.update(chunk instanceof Uint8Array ? chunk : chunk.subarray())
  })()
  for (let at = 0; at < bytes.length; at += size) if (!stream.send(bytes.subarray(at, at + size))) await stream.onDrain()
  await stream.close()
  await received
  return hash.digest('hex')
}

for (const [name, client, server] of [
  ['both sides', quietYamux(), quietYamux()],
  ['calling the library', quietYamux(), yamux()],
  ['called by the library', yamux(), quietYamux()],
] as const) {
  test(`${name}: messages of all sizes arrive whole and in order, on many streams at once`, async (t) => {
    const [a, b] = [await startPeer(t, client), await startPeer(t, server)]
    const connection = await dial(a, b)
    const parts = [
      { bytes: randomBytes(4 * MIB), size: 50_000 },
      { bytes: randomBytes(2 * MIB), size: 2 * MIB },
      { bytes: randomBytes(100_000), size: 100 },
      { bytes: randomBytes(1), size: 1 },
    ]
    const digests = await Promise.all(parts.map(({ bytes, size }) => echo(connection, bytes, size)))
    assert.deepEqual(
      digests,
      parts.map(({ bytes }) => digestOf(bytes)),
    )
  })

  test(`${name}: one message at a time, back and forth`, async (t) => {
    const [a, b] = [await startPeer(t, client), await startPeer(t, server)]
    const stream = await (await dial(a, b)).newStream(ECHO)
    const answers = stream[Symbol.asyncIterator]()
    for (let i = 0; i < 300; i++) {
      const message = randomBytes(1 + i * 17)
      stream.send(message)
      let received = Buffer.alloc(0)
      while (received.length < message.length) received = Buffer.concat([received, (await answers.next()).value!.subarray()])
      assert.deepEqual(received, message)
    }
    await stream.close()
  })

  test(`${name}: who does not read gets no more than a window, the rest once it reads, and others are not held up`, async (t) => {
    const [a, b] = [await startPeer(t, client), await startPeer(t, server)]
    const connection = await dial(a, b)
    const stream = await connection.newStream(SINK)
    const bytes = randomBytes(MIB)
    let isFull = false
    for (let at = 0; at < bytes.length; at += 10_000) isFull = !stream.send(bytes.subarray(at, at + 10_000)) || isFull
    assert.ok(isFull)
    assert.ok(stream.writeBufferLength >= MIB - WINDOW_BYTES - 10_000)
    const other = randomBytes(MIB)
    assert.equal(await echo(connection, other, 10_000), digestOf(other))
    assert.ok(stream.writeBufferLength > 0)
    const [sink] = b.unread as [Stream]
    const hash = createHash('sha256')
    let length = 0
    sink.addEventListener('message', ({ data }) => {
      hash.update(data instanceof Uint8Array ? data : data.subarray())
      length += data.byteLength
    })
    sink.resume()
    await until(() => length === MIB, { what: 'the rest arrives' })
    assert.equal(hash.digest('hex'), digestOf(bytes))
  })
}

test('who sends more than the window allows loses the connection', async (t) => {
  const [a, b] = [await startPeer(t, quietYamux()), await startPeer(t, quietYamux())]
  const connection = await dial(a, b)
  const stream = (await connection.newStream(SINK)) as unknown as { streamId: number }
  const raw = (connection as unknown as { muxer: { maConn: { send(data: Uint8Array): boolean } } }).muxer.maConn
  const frame = Buffer.alloc(12 + 10_000)
  frame.writeUInt32BE(stream.streamId, 4)
  frame.writeUInt32BE(10_000, 8)
  for (let bytes = 0; bytes < 2 * WINDOW_BYTES; bytes += 10_000) raw.send(Buffer.from(frame))
  await until(() => b.node.getConnections().length === 0, { what: 'the other side ends the connection' })
})

test('a stream closed by its sender says so after its last message, and takes no more', async (t) => {
  const [a, b] = [await startPeer(t, quietYamux()), await startPeer(t, quietYamux())]
  const connection = await dial(a, b)
  const stream = await connection.newStream(SINK)
  stream.send(randomBytes(1000))
  const [sink] = (await until(() => b.unread.length > 0 && b.unread, { what: 'the stream' })) as [Stream]
  let received = 0
  let isEnded = false
  sink.addEventListener('message', ({ data }) => (received += data.byteLength))
  sink.addEventListener('remoteCloseWrite', () => (isEnded = received === 3000))
  sink.resume()
  stream.send(randomBytes(2000))
  await stream.close()
  await until(() => isEnded, { what: 'the end' })
  assert.throws(() => stream.send(randomBytes(1)), /closing|closed/)
})

test('a message for a stream that has ended is dropped; a frame that breaks the protocol ends the connection', async (t) => {
  const [a, b] = [await startPeer(t, quietYamux()), await startPeer(t, quietYamux())]
  const connection = await dial(a, b)
  const raw = (connection as unknown as { muxer: { maConn: { send(data: Uint8Array): boolean } } }).muxer.maConn
  const dataFrame = (stream: number): Uint8Array => Uint8Array.of(0, 0, 0, 0, 0, 0, 0, stream, 0, 0, 0, 1, 7)
  raw.send(dataFrame(77))
  const bytes = randomBytes(1000)
  assert.equal(await echo(connection, bytes, 100), digestOf(bytes))
  raw.send(Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 7))
  await until(() => b.node.getConnections().length === 0, { what: 'the other side ends the connection' })
})

test('every listener of a stream hears every message while it listens', async (t) => {
  const [a, b] = [await startPeer(t, quietYamux()), await startPeer(t, quietYamux())]
  const stream = await (await dial(a, b)).newStream(ECHO)
  const heard: string[] = []
  const listener =
    (name: string) =>
    ({ data }: { data: { byteLength: number } }): void =>
      void heard.push(`${name} ${data.byteLength}`)
  const [first, second, once] = [listener('first'), listener('second'), listener('once')]
  const exchange = async (bytes: number, expected: readonly string[]): Promise<void> => {
    heard.length = 0
    stream.send(randomBytes(bytes))
    await until(() => heard.length >= expected.length, { what: `${bytes} bytes come back` })
    assert.deepEqual(heard.sort(), [...expected].sort())
  }
  stream.addEventListener('message', first)
  await exchange(1, ['first 1'])
  stream.addEventListener('message', second)
  stream.addEventListener('message', once, { once: true })
  await exchange(2, ['first 2', 'second 2', 'once 2'])
  await exchange(3, ['first 3', 'second 3'])
  stream.removeEventListener('message', first)
  await exchange(4, ['second 4'])
  await stream.close()
})

test('a listener that throws ends its stream and no other', async (t) => {
  const [a, b] = [await startPeer(t, quietYamux()), await startPeer(t, quietYamux())]
  const connection = await dial(a, b)
  const stream = await connection.newStream(ECHO)
  stream.addEventListener('message', () => {
    throw new Error('the listener is broken')
  })
  stream.send(randomBytes(10))
  await until(() => stream.status === 'aborted', { what: 'the stream ends' })
  const bytes = randomBytes(1000)
  assert.equal(await echo(connection, bytes, 100), digestOf(bytes))
})

test('a listener that pauses its stream hears the rest in order once it goes on', async (t) => {
  const [a, b] = [await startPeer(t, quietYamux()), await startPeer(t, quietYamux())]
  const connection = await dial(a, b)
  const stream = await connection.newStream(ECHO)
  const heard: number[] = []
  let isPausing = true
  stream.addEventListener('message', ({ data }) => {
    heard.push(...(data instanceof Uint8Array ? data : data.subarray()))
    if (isPausing) stream.pause()
  })
  stream.send(Uint8Array.of(1))
  await until(() => heard.length > 0, { what: 'the first message' })
  for (const number of [2, 3, 4]) stream.send(Uint8Array.of(number))
  // What comes back on another stream of the connection has passed what waits here.
  await echo(connection, randomBytes(100_000), 1000)
  assert.deepEqual(heard, [1])
  isPausing = false
  stream.resume()
  stream.send(Uint8Array.of(5))
  await until(() => heard.length >= 5, { what: 'the rest' })
  assert.deepEqual(heard, [1, 2, 3, 4, 5])
  await stream.close()
})
