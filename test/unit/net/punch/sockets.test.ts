import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { Face } from '../../../../node/net/punch/face.ts'
import { reflectTcp, TcpReflector } from '../../../../node/net/punch/tcp-reflector.ts'
import { punchUdp } from '../../../../node/net/punch/udp-punch.ts'
import type { UdpPath } from '../../../../node/net/punch/face.ts'
import { UdpSocket } from '../../../../node/net/punch/udp-socket.ts'
import { NO_REACH } from '../../../../protocols/punch/index.ts'

const LOOPBACK = '127.0.0.1'
const TOKEN = new Uint8Array(16).fill(3)

async function open(t: TestContext): Promise<UdpSocket> {
  const socket = await UdpSocket.open(4, 0)
  t.after(() => socket.close())
  return socket
}

test('a socket reflects, and a taken port is no obstacle', async (t) => {
  const one = await open(t)
  const two = await UdpSocket.open(4, one.port)
  t.after(() => two.close())
  assert.notEqual(two.port, one.port)
  assert.deepEqual(await two.reflect({ address: LOOPBACK, port: one.port }), { address: LOOPBACK, port: two.port })
})

test('a reflector that is silent is given up', async (t) => {
  const silent = createSocket('udp4')
  t.after(() => silent.close())
  await new Promise<void>((resolve) => silent.bind(0, LOOPBACK, resolve))
  assert.equal(await (await open(t)).reflect({ address: LOOPBACK, port: silent.address().port }), null)
})

test('TCP is reflected from the port asked for; garbage and silence are null', async (t) => {
  const reflector = await TcpReflector.open(0)
  t.after(() => reflector.close())
  const other = await TcpReflector.open(0)
  const localPort = other.port
  other.close()
  assert.deepEqual(await reflectTcp({ address: LOOPBACK, port: reflector.port }, localPort), { address: LOOPBACK, port: localPort })
  assert.equal(await reflectTcp({ address: LOOPBACK, port: 1 }, 0), null)
})

test('a TCP reflector that talks nonsense is not believed', async (t) => {
  for (const nonsense of ['1.2.3 80\n', '192.0.2.1 70000\n', '192.0.2.1 0\n', `${'1'.repeat(100)}\n`]) {
    const server = createServer((socket) => socket.on('error', () => {}).end(nonsense))
    t.after(() => server.close())
    await new Promise<void>((resolve) => server.listen(0, LOOPBACK, resolve))
    assert.equal(await reflectTcp({ address: LOOPBACK, port: (server.address() as AddressInfo).port }, 0), null)
  }
})

test('two sockets find one another; who only knows the token of another attempt finds nobody', async (t) => {
  const [a, b] = [await open(t), await open(t)]
  const attempt = new AbortController()
  const heard: UdpPath[] = []
  const reach = (socket: UdpSocket) => ({ mapping: 'independent' as const, endpoints: [{ address: LOOPBACK, port: socket.port }] })
  const common = { token: TOKEN, signal: attempt.signal }
  const waiting = punchUdp({ ...common, sockets: [b], mine: reach(b), theirs: reach(a), onHeard: (path) => heard.push(path) })
  const stranger = punchUdp({ ...common, token: new Uint8Array(16), sockets: [await open(t)], mine: NO_REACH, theirs: reach(b) })
  const path = await punchUdp({ ...common, sockets: [a], mine: reach(a), theirs: reach(b) })
  assert.deepEqual(path?.remote, { address: LOOPBACK, port: b.port })
  assert.deepEqual(
    heard.map(({ remote }) => remote),
    [{ address: LOOPBACK, port: a.port }],
  )
  attempt.abort()
  assert.equal(await stranger, null)
  await waiting
})

test('an attempt that ends leaves no socket of its own open', async (t) => {
  const [a, b] = [await open(t), await open(t)]
  const attempt = new AbortController()
  const theirs = { mapping: 'independent' as const, endpoints: [{ address: LOOPBACK, port: b.port }] }
  const punching = punchUdp({ sockets: [a], token: TOKEN, mine: { mapping: 'dependent', endpoints: [] }, theirs, signal: attempt.signal })
  attempt.abort()
  assert.equal(await punching, null)
  assert.equal(a.isClosed, false)
})

test('a face carries packets both ways, also those that came before it was ready', async (t) => {
  const [a, b] = [await open(t), await open(t)]
  const local = createSocket('udp4')
  t.after(() => local.close())
  await new Promise<void>((resolve) => local.bind(0, LOOPBACK, resolve))
  const toLocal = new Promise<{ text: string; port: number }>((resolve) =>
    local.once('message', (packet, { port }) => resolve({ text: packet.toString(), port })),
  )
  const opening = Face.open({ socket: a, remote: { address: LOOPBACK, port: b.port }, isOwn: false }, local.address().port)
  b.send(Buffer.from('@early'), { address: LOOPBACK, port: a.port })
  const face = await opening
  t.after(() => face.close())
  assert.deepEqual(await toLocal, { text: '@early', port: face.port })
  const back = new Promise<string>((resolve) =>
    b.carry({ address: LOOPBACK, port: a.port }, (packet) => resolve(Buffer.from(packet).toString())),
  )
  local.send('@back', face.port, LOOPBACK)
  assert.equal(await back, '@back')
})
