/** Whatever is wrong with flags, files, requests or peers: one clear error, and the daemon goes on serving. */
import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { cp, open, rm, truncate, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import * as lengthPrefixed from 'it-length-prefixed'
import { createLedger } from '../../crdt/index.ts'
import type { Ledger } from '../../crdt/index.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { digestHex } from '../../node/model/digest.ts'
import { openModel } from '../../node/model/library.ts'
import { decodeReply, encodeCall } from '../../protocols/expert/messages.ts'
import type { ExpertCall } from '../../protocols/expert/messages.ts'
import { EXPERT_LIMITS, EXPERT_PROTOCOL, FrameKind, Priority } from '../../protocols/expert/protocol.ts'
import { createLedgerClient, gossipTopic, ID as LEDGER_PROTOCOL, Status } from '../../protocols/ledger/index.ts'
import type { SyncResult } from '../../protocols/ledger/index.ts'
import { encodeDigest, encodeMessage } from '../../protocols/ledger/messages.ts'
import { FrameDecoder, FrameWriter } from '../../protocols/wire/frames.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import type { BarePeer } from '../helpers/bare-peer.ts'
import { EMBER_CHECKPOINT } from '../helpers/checkpoint.ts'
import { daemonSwarm, skein, statusOf } from '../helpers/daemon-swarm.ts'
import type { CommandResult } from '../helpers/daemon-swarm.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'
import { until } from '../helpers/until.ts'

const USAGE = 2
const FAILED = 1
/** What a stream may cost a daemon that drops what comes: buffers of the connection, and garbage not yet collected. */
const MAX_GROWTH_BYTES = 80e6
const FLOOD_BYTES = 200e6
const MESSAGES = [{ role: 'user', content: 'Tell me a story about a dog.' }]

/** The command ended so, with one line that matches. */
function assertRefused(result: CommandResult, code: number, message: RegExp): void {
  assert.equal(result.code, code, result.stderr)
  const lines = result.stderr.trim().split('\n')
  assert.equal(lines.length, 1, result.stderr)
  assert.match(lines[0]!, message)
  assert.doesNotMatch(result.stderr, /\n\s+at /)
}

describe('bad input', { timeout: 240_000 }, () => {
  const swarm = daemonSwarm(async (daemons) => {
    await daemons.start('gateway', ['--host', 'all'])
  })
  const url = (): string => swarm().get('gateway').url
  const post = async (path: string, body: unknown): Promise<{ status: number; error: Record<string, unknown> }> => {
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const response = await fetch(`${url()}${path}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: text })
    return { status: response.status, ...((await response.json()) as { error: Record<string, unknown> }) }
  }
  const assertServing = async (): Promise<void> => {
    const { status, error } = await post('/v1/chat/completions', { model: 'ember', messages: MESSAGES, max_tokens: 3, temperature: 0 })
    assert.deepEqual([status, error], [200, undefined])
  }
  const metric = async (line: string): Promise<number> => {
    const text = await (await fetch(`${url()}/metrics`)).text()
    const found = text.split('\n').find((candidate) => candidate.startsWith(`${line} `))
    return Number(found?.slice(line.length + 1) ?? 0)
  }
  const peer = (t: Parameters<typeof startBarePeer>[0]): Promise<BarePeer> =>
    startBarePeer(t, { swarm: swarm().name, connectTo: swarm().get('gateway').addresses })

  describe('on the command line', () => {
    test('an unknown flag, command or value', async (t) => {
      const data = ['--data', await temporaryDir(t)]
      assertRefused(await skein(['up', ...data, '--bogus']), USAGE, /^error: unknown option '--bogus'$/)
      assertRefused(await skein(['frobnicate']), USAGE, /^error: unknown command 'frobnicate'$/)
      assertRefused(await skein(['up', ...data, '--threads', 'many']), USAGE, /^skein: --threads many: use a whole number from 1 to 256$/)
      assertRefused(await skein(['up', ...data, '--host', '9:0-1', '--no-mdns']), USAGE, /^skein: --host: the model has no layer 9/)
      assertRefused(await skein(['pack', EMBER_CHECKPOINT, '--quant', 'q3', ...data]), USAGE, /'q3' is invalid. Allowed choices are f32/)
    })

    test('a port that is in use', async (t) => {
      const server = createServer().listen(0, '127.0.0.1')
      t.after(() => server.close())
      await new Promise((resolve) => server.once('listening', resolve))
      const { port } = server.address() as AddressInfo
      const udp = createSocket('udp4').bind(0, '127.0.0.1')
      t.after(() => udp.close())
      await new Promise((resolve) => udp.once('listening', resolve))
      const common = ['up', '--store', swarm().storeDir, '--no-mdns', '--host', 'none', '--data', await temporaryDir(t)]
      const free = ['--listen', '/ip4/127.0.0.1/tcp/0']
      const api = await skein([...common, ...free, '--api-port', String(port)])
      assertLastLine(api, USAGE, new RegExp(`^skein: port ${port} of 127.0.0.1 is in use: choose another with --api-port`))
      const listen = await skein([...common, '--listen', `/ip4/127.0.0.1/tcp/${port}`, '--api-port', '0'])
      assertLastLine(listen, USAGE, new RegExp(`^skein: --listen /ip4/127.0.0.1/tcp/${port}: the port is in use; stop the other program`))
      const quic = await skein([
        ...common,
        '--listen',
        '/ip4/127.0.0.1/tcp/0',
        `/ip4/127.0.0.1/udp/${udp.address().port}/quic-v1`,
        '--api-port',
        '0',
      ])
      assertLastLine(quic, USAGE, new RegExp(`^skein: --listen /ip4/127.0.0.1/udp/${udp.address().port}/quic-v1: the port is in use`))
      await assertServing()
    })

    test('a data directory that another daemon uses', async () => {
      const second = await skein(['up', ...swarm().flags('gateway')])
      assertLastLine(second, USAGE, /^skein: cannot open .*gateway\/libp2p: is another skein node using this data directory\?/)
      const status = await skein(['status', '--data', join(swarm().dir, 'gateway')])
      assert.equal(status.code, 0, 'the first daemon is still found by its directory')
      await assertServing()
    })

    test('files of the data directory that are not what they should be', async (t) => {
      const dir = await temporaryDir(t)
      await writeFile(join(dir, 'config.json'), '{ "thraeds": 2 }')
      const flags = ['up', '--data', dir, '--store', swarm().storeDir, '--no-mdns', '--listen', '/ip4/127.0.0.1/tcp/0', '--api-port', '0']
      assertRefused(await skein(flags), USAGE, /config\.json has an unknown setting "thraeds"; known are /)
      await rm(join(dir, 'config.json'))
      await writeFile(join(dir, 'identity.key'), 'not a key')
      assertRefused(await skein(flags), USAGE, /identity\.key is not an Ed25519 identity: restore it from a copy, or delete it/)
    })

    test('no daemon to talk to', async (t) => {
      const dir = await temporaryDir(t)
      assertRefused(await skein(['ask', '--data', dir, 'hello']), USAGE, /^skein: no node is running on .*: start one with "skein up"/)
      await writeFile(join(dir, 'api.json'), JSON.stringify({ url: 'http://127.0.0.1:9', pid: 1 }))
      assertRefused(await skein(['status', '--data', dir]), FAILED, /^skein: cannot reach the node at http:\/\/127\.0\.0\.1:9: /)
    })

    test('a question that the daemon refuses', async () => {
      const data = ['--data', join(swarm().dir, 'gateway')]
      assertRefused(await skein(['ask', ...data, '--model', 'gpt-9', 'hello']), FAILED, /^skein: model gpt-9 is not served by this node/)
      assertRefused(await skein(['ask', ...data, '--temperature', '9', 'hello']), FAILED, /^skein: .*'temperature'/)
      await assertServing()
    })
  })

  describe('in checkpoints and blobs', () => {
    test('a truncated checkpoint, one without a tokenizer, and none at all', async (t) => {
      const dir = await temporaryDir(t)
      const data = ['--data', join(dir, 'data')]
      const cut = join(dir, 'cut')
      await cp(EMBER_CHECKPOINT, cut, { recursive: true })
      await truncate(join(cut, 'model.safetensors'), 1_000_000)
      assertRefused(await skein(['pack', cut, ...data]), FAILED, /model\.safetensors is truncated: tensor \S+ ends at byte \d+/)
      const mute = join(dir, 'mute')
      await cp(EMBER_CHECKPOINT, mute, { recursive: true })
      await rm(join(mute, 'tokenizer.json'))
      assertRefused(await skein(['pack', mute, ...data]), FAILED, /mute has no tokenizer\.json: get it from the model's page/)
      assertRefused(await skein(['pack', join(dir, 'nothing'), ...data]), FAILED, /nothing is no directory: name the folder/)
      assert.match((await skein(['models', ...data])).stdout, /^no packed models yet/)
    })

    test('a corrupt blob of a packed model is named, and refused', async (t) => {
      const dir = await temporaryDir(t)
      const packed = await skein(['pack', EMBER_CHECKPOINT, '--name', 'mine', '--data', dir])
      assert.equal(packed.code, 0, packed.stderr)
      const cid = await spoilShard(join(dir, 'blobs'), 'mine')
      const flags = ['--data', dir, '--store', join(dir, 'blobs'), '--model', 'mine', '--log', 'error']
      const refused = await skein(['up', ...flags, '--no-mdns', '--listen', '/ip4/127.0.0.1/tcp/0', '--api-port', '0'])
      assertRefused(refused, FAILED, new RegExp(`^skein: blob ${cid} is corrupt: .*${cid}\\.corrupt`))
      // The damaged file was put aside, so now it is missing.
      const again = await skein(['up', ...flags, '--no-mdns', '--listen', '/ip4/127.0.0.1/tcp/0', '--api-port', '0'])
      assertRefused(again, FAILED, new RegExp(`^skein: blob ${cid} is missing`))
      const missing = await skein(['up', '--data', dir, '--model', 'other', '--no-mdns', '--log', 'error'])
      assertRefused(missing, FAILED, /^skein: --model other: this node has no model "other"; it has: mine/)
    })

    test('a corrupt blob of the embedded model is packed again, and the log says so', async (t) => {
      const storeDir = join(await temporaryDir(t), 'blobs')
      await cp(swarm().storeDir, storeDir, { recursive: true })
      const cid = await spoilShard(storeDir, 'ember')
      const daemon = await swarm().start('repairer', ['--store', storeDir, '--host', 'all'])
      assert.match(daemon.output(), new RegExp(`error model\\.repacked reason="blob ${cid} is corrupt`))
      assert.equal((await statusOf(daemon.url)).ready, true)
      await daemon.stop()
      assert.equal((await openModel(createBlobStore({ dir: storeDir }), 'ember')).manifest.name, 'ember')
      await createBlobStore({ dir: storeDir }).path(cid)
    })
  })

  test('requests that can not be answered', async () => {
    const chat = { model: 'ember', messages: MESSAGES }
    const long = Array.from({ length: 1200 }, (_, i) => `word${i}`).join(' ')
    const cases: readonly (readonly [string, unknown, number, string | null, RegExp])[] = [
      [
        '/v1/chat/completions',
        { ...chat, messages: [{ role: 'user', content: long }] },
        400,
        'context_length_exceeded',
        /takes at most 1024/,
      ],
      ['/v1/completions', { model: 'ember', prompt: long }, 400, 'context_length_exceeded', /takes at most 1024/],
      ['/v1/completions', { model: 'ember', prompt: [4096] }, 400, null, /token 4096 is not in the vocabulary/],
      ['/v1/completions', { model: 'ember', prompt: '' }, 400, null, /the prompt is empty/],
      ['/v1/chat/completions', '{"model": "ember", "messages": [', 400, 'invalid_json', /JSON/],
      [
        '/v1/chat/completions',
        { ...chat, model: 'gpt-9' },
        404,
        'model_not_found',
        /model gpt-9 is not served by this node; it has: ember/,
      ],
      ['/v1/chat/completions', { ...chat, temperature: 2.5 }, 400, 'invalid_value', /'temperature'/],
      ['/v1/chat/completions', { ...chat, skein: { wire: 'f8' } }, 400, 'invalid_value', /'skein\.wire'/],
      ['/v1/chat/completions', { model: 'ember' }, 400, 'missing_required_parameter', /'messages'/],
      ['/v1/nothing', {}, 404, 'unknown_route', /POST \/v1\/nothing/],
    ]
    for (const [path, body, status, code, message] of cases) {
      const answer = await post(path, body)
      assert.deepEqual([answer.status, answer.error['code']], [status, code], JSON.stringify(answer))
      assert.match(String(answer.error['message']), message)
      assert.equal(answer.error['type'], 'invalid_request_error')
    }
    await assertServing()
  })

  describe('from peers', () => {
    test('a frame over the limit of the expert protocol ends the stream, and only that', async (t) => {
      const { mesh } = await peer(t)
      const raw = await rawExpertStream(mesh, swarm().get('gateway').peer)
      const header = new Uint8Array(9)
      new DataView(header.buffer).setUint32(0, EXPERT_LIMITS.maxFrameBytes + 1, true)
      header[8] = FrameKind.call
      raw.stream.send(header)
      await raw.closed
      await until(() => /expert\.violation .*exceeds the limit/.test(swarm().get('gateway').output()), { what: 'the log names the reason' })
      await assertServing()
      // The connection and the peer are not to blame for one stream.
      const next = await rawExpertStream(mesh, swarm().get('gateway').peer)
      assert.deepEqual(await next.ask(callOf(swarm().model.id, { model: '00'.repeat(32) })), 'notHeld')
    })

    test('calls that make no sense are refused one by one', async (t) => {
      const { mesh } = await peer(t)
      const raw = await rawExpertStream(mesh, swarm().get('gateway').peer)
      const call = callOf(swarm().model.id, {})
      assert.equal(await raw.ask(call), 'ok')
      assert.equal(await raw.askRaw(new Uint8Array(10)), 'malformed')
      const cut = Buffer.concat(encodeCall(call)).subarray(0, -1)
      assert.equal(await raw.askRaw(cut), 'malformed')
      assert.equal(await raw.ask({ ...call, layer: 77 }), 'notHeld')
      assert.equal(await raw.ask({ ...call, pickExpert: Uint16Array.of(999) }), 'notHeld')
      assert.equal(await raw.ask({ ...call, width: 128, x: new Float32Array(128) }), 'malformed')
      assert.equal(await raw.ask({ ...call, x: new Float32Array(256).fill(NaN) }), 'ok', 'garbage in, garbage out: the driver checks')
      assert.equal(await raw.ask(call), 'ok')
      await assertServing()
    })

    test('ledger envelopes that their author did not sign are refused, however they come', async (t) => {
      const rogue = await peer(t)
      const { peer: daemon } = swarm().get('gateway')
      const ledger = createLedger({ privateKey: rogue.privateKey }, { swarm: swarm().name })
      await ledger.start()
      t.after(() => ledger.stop())
      const genuine = await ownEnvelope(ledger, 'honest again')
      const forged = Uint8Array.from(genuine)
      forged[forged.length - 1]! ^= 1
      const refused = (): Promise<number> => metric('skein_ledger_rejected_total{reason="signature"}')
      const seen = async (): Promise<boolean> => (await statusOf(url())).peers.some((entry) => entry.name === 'honest again')

      const before = await refused()
      assert.deepEqual(await syncWith(rogue, daemon, swarm().name, [forged]), { received: 1, applied: 0, sent: 1 })
      assert.equal(await refused(), before + 1)

      const { pubsub } = rogue.mesh.services
      const topic = gossipTopic(swarm().name)
      pubsub.subscribe(topic)
      await until(() => pubsub.getSubscribers(topic).length > 0, { what: 'gossip knows the daemon' })
      await until(
        async () => {
          await pubsub.publish(topic, Uint8Array.from(forged)).catch(() => {})
          return (await refused()) >= before + 2
        },
        { what: 'the gossiped forgery is refused', intervalMs: 200 },
      )
      assert.equal(await seen(), false)

      // A peer that goes on so is not listened to any more, lest each forgery cost a signature check.
      const flood = Array.from({ length: 60 }, (_, i) => {
        const envelope = Uint8Array.from(forged)
        envelope[envelope.length - 2]! ^= i + 1
        return envelope
      })
      const outcome = await syncWith(rogue, daemon, swarm().name, flood).catch((error: Error) => error.name)
      assert.ok(typeof outcome === 'object' ? outcome.applied === 0 : ['PeerRefusedError', 'PeerLostError'].includes(outcome))
      assert.ok((await refused()) - before < 20, 'the daemon checked every forgery')
      await syncWith(rogue, daemon, swarm().name, [genuine])
      assert.equal(await seen(), false)
      await assertServing()

      // Not the author was refused but the forgeries: another peer may bring the genuine record.
      const courier = await peer(t)
      assert.equal((await syncWith(courier, daemon, swarm().name, [genuine])).sent, 1)
      await until(seen, { what: 'the genuine record is believed' })
      await assertServing()
    })

    for (const [what, opening] of [
      ['over its limit', Uint8Array.of(0x80, 0x80, 0x80, 0x80, 0x01)],
      ['out of turn', lengthPrefixed.encode.single(encodeMessage({ kind: 'done', status: Status.ok })).subarray()],
    ] as const) {
      test(`a ledger message ${what} ends the sync, and what follows is not kept`, async (t) => {
        const rogue = await peer(t)
        const { peer: daemon } = swarm().get('gateway')
        const memory = (): Promise<number> => metric('skein_process_resident_memory_bytes')
        const marker = await rawExpertStream(rogue.mesh, daemon)
        const nobodys = callOf(swarm().model.id, { model: '00'.repeat(32) })
        const before = await memory()
        const stream = await rogue.mesh.dialProtocol(peerIdFromString(daemon), LEDGER_PROTOCOL, { signal: AbortSignal.timeout(10_000) })
        const ended = new Promise<void>((resolve) => stream.addEventListener('remoteCloseWrite', () => resolve(), { once: true }))
        stream.send(opening)
        await ended
        let sent = 0
        while (sent < FLOOD_BYTES && stream.writeStatus === 'writable') {
          for (let i = 0; i < 32; i++) stream.send(new Uint8Array(60_000))
          sent += 32 * 60_000
          // It takes the same connection, so its answer says that all before it has arrived.
          assert.equal(await marker.ask(nobodys), 'notHeld')
        }
        const grown = (await memory()) - before
        t.diagnostic(`${(sent / 1e6).toFixed(0)} MB sent, ${(grown / 1e6).toFixed(0)} MB grown`)
        assert.ok(grown < MAX_GROWTH_BYTES, `the daemon grew by ${grown} bytes`)
        const honest = await peer(t)
        assert.equal((await syncWith(honest, daemon, swarm().name, [])).sent, 0)
        await assertServing()
      })
    }
  })

  test('after all of this the daemon has not died and stops as it should', async () => {
    const daemon = swarm().get('gateway')
    assert.doesNotMatch(daemon.output(), /unhandled|internal error|\n\s+at /i)
    await daemon.stop()
    assert.equal(await daemon.exited, 0)
  })
})

/** As {@link assertRefused}, after whatever was logged. */
function assertLastLine(result: CommandResult, code: number, message: RegExp): void {
  assertRefused({ ...result, stderr: result.stderr.trim().split('\n').at(-1)! }, code, message)
}

/** Changes one byte in the middle of a model's first shard; returns the shard's CID. */
async function spoilShard(storeDir: string, name: string): Promise<string> {
  const { manifest } = await openModel(createBlobStore({ dir: storeDir }), name)
  const shard = manifest.blobs.find((blob) => blob.role === 'experts')!
  const file = await open(join(storeDir, shard.cid), 'r+')
  try {
    const byte = Buffer.alloc(1)
    const at = Math.floor(shard.bytes / 2)
    await file.read(byte, 0, 1, at)
    byte[0]! ^= 0x40
    await file.write(byte, 0, 1, at)
  } finally {
    await file.close()
  }
  return shard.cid
}

interface RawExpertStream {
  readonly stream: Stream
  readonly closed: Promise<void>
  /** The status of the reply to a call. */
  readonly ask: (call: ExpertCall) => Promise<string>
  readonly askRaw: (payload: Uint8Array) => Promise<string>
}

/** An expert stream that sends whatever it is told. */
async function rawExpertStream(mesh: BarePeer['mesh'], peer: string): Promise<RawExpertStream> {
  const stream = await mesh.dialProtocol(peerIdFromString(peer), EXPERT_PROTOCOL, { signal: AbortSignal.timeout(10_000) })
  const replies = new Map<number, (status: string) => void>()
  const writer = new FrameWriter(stream, () => {})
  const decoder = new FrameDecoder({
    maxFrameBytes: EXPERT_LIMITS.maxFrameBytes,
    onFrame: ({ id, kind, payload }) => {
      if (kind === FrameKind.reply) replies.get(id)?.(decodeReply(payload).status)
    },
  })
  stream.addEventListener('message', (event) => {
    for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) decoder.push(chunk)
  })
  let nextId = 1
  const askRaw = (payload: Uint8Array): Promise<string> => {
    const id = nextId++
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    const timer = setTimeout(() => reject(new Error('no reply within 10 s')), 10_000)
    replies.set(id, resolve)
    writer.write(id, FrameKind.call, payload)
    return promise.finally(() => clearTimeout(timer))
  }
  return {
    stream,
    closed: new Promise((resolve) => stream.addEventListener('close', () => resolve(), { once: true })),
    ask: (call) => askRaw(Buffer.concat(encodeCall(call))),
    askRaw,
  }
}

/** One row for expert 0 of layer 0 of the embedded model. */
function callOf(id: string, fields: Partial<ExpertCall>): ExpertCall {
  const width = 256
  return {
    model: digestHex(id),
    layer: 0,
    priority: Priority.decode,
    deadlineMs: 5_000,
    combine: true,
    rowType: 'f32',
    rows: 1,
    width,
    x: new Float32Array(width).fill(0.1),
    pickRow: Uint16Array.of(0),
    pickExpert: Uint16Array.of(0),
    pickWeight: Float32Array.of(1),
    ...fields,
  }
}

/** The envelope that an author would publish of a profile with this name. */
async function ownEnvelope(ledger: Ledger, name: string): Promise<Uint8Array> {
  const published = Promise.withResolvers<Uint8Array>()
  ledger.on('publish', published.resolve)
  ledger.set('profile', { name, version: 'test', relayed: false })
  await ledger.tick()
  ledger.off('publish', published.resolve)
  return await published.promise
}

/** Hands envelopes to a peer by the ledger's own protocol, asking for nothing. */
async function syncWith(from: BarePeer, to: string, swarm: string, envelopes: readonly Uint8Array[]): Promise<SyncResult> {
  const client = createLedgerClient({
    access: { swarm, digest: () => encodeDigest([]), missing: () => envelopes, receive: () => Promise.resolve('ignored') },
    openStream: (peer, protocol, { signal }) => from.mesh.dialProtocol(peerIdFromString(peer), protocol, { signal }),
  })
  return await client.sync(to)
}
