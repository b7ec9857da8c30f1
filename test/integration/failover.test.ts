/** A host may go, refuse, lie about its shape or say nothing: as long as one honest replica is left the answer has the same bits. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FrameKind } from '../../protocols/expert/protocol.ts'
import type { NoRouteError } from '../../node/errors.ts'
import type { SkeinNode } from '../../node/node.ts'
import { emptyAnswer, startRogueHost } from '../helpers/rogue-host.ts'
import type { RogueCall } from '../helpers/rogue-host.ts'
import { ask, createSwarm, shareOf, untilReady } from '../helpers/swarm.ts'
import type { Answer } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const PROMPT = { messages: [{ role: 'user', content: 'Tell me a story about a dog.' }] }
const FIELDS = Object.freeze({ wire: 'f32', combine: 'driver', maxTokens: 24, logprobs: 3 } as const)
const NO_ROUTE_MS = 5_000

function assertSame(answer: Answer, expected: Answer, what: string): void {
  assert.deepEqual(answer.tokens, expected.tokens, what)
  assert.deepEqual(answer.logprobs, expected.logprobs, what)
  assert.equal(answer.report.exact, true)
}

test('a replica that stops in the middle of an answer is not missed', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  const hosts = await Promise.all([0, 1, 2].map((part) => swarm.start({ host: shareOf(swarm.model, part, 3, 2) })))
  await untilReady(driver, 3, 2)
  const undisturbed = await ask(driver, PROMPT, FIELDS)
  assert.equal(undisturbed.tokens.length, 24)
  const stopping: Promise<void>[] = []
  const answer = await ask(driver, PROMPT, FIELDS, (tokens) => {
    if (tokens === 5) stopping.push(hosts[0]!.stop())
  })
  assertSame(answer, undisturbed, 'one host left')
  assert.equal(stopping.length, 1)
  await stopping[0]
  assertSame(await ask(driver, PROMPT, FIELDS), undisturbed, 'two hosts are enough')
})

/** What a rogue host does with a call, and whether it is to be backed off for it. */
const MISDEEDS: Readonly<Record<string, { readonly misdeed: (call: RogueCall) => void; readonly backedOff: boolean }>> = {
  'is busy': { misdeed: ({ reply }) => reply({ status: 'busy', retryAfterMs: 50 }), backedOff: false },
  'does not hold the expert': {
    misdeed: ({ reply, call }) => reply({ status: 'notHeld', experts: [call.pickExpert[0]!] }),
    backedOff: false,
  },
  fails: { misdeed: ({ reply }) => reply({ status: 'failed' }), backedOff: true },
  'answers with another shape': {
    misdeed: ({ reply, call }) => {
      const answer = emptyAnswer(call)
      reply({ ...answer, rows: answer.rows + 1, data: new Float32Array((answer.rows + 1) * answer.width) })
    },
    backedOff: true,
  },
  'answers with NaN': {
    misdeed: ({ reply, call }) => reply({ ...emptyAnswer(call), data: emptyAnswer(call).data.fill(NaN, 7, 8) }),
    backedOff: true,
  },
  'answers with infinities': {
    misdeed: ({ reply, call }) => reply({ ...emptyAnswer(call), rowType: 'f32', data: emptyAnswer(call).data.fill(-Infinity) }),
    backedOff: true,
  },
  'answers with junk': { misdeed: ({ frame, id }) => frame(id, FrameKind.reply, Uint8Array.of(100, 0, 0, 0, 9, 9, 9)), backedOff: true },
  'answers another call': { misdeed: ({ frame, id }) => frame(id + 1000, FrameKind.reply, new Uint8Array(20)), backedOff: true },
  'sends an unknown frame': { misdeed: ({ frame, id }) => frame(id, 77, new Uint8Array(4)), backedOff: true },
  'announces a frame over the limit': {
    misdeed: ({ stream }) => void stream.send(Uint8Array.of(0, 0, 0, 0x7f, 1, 0, 0, 0, FrameKind.reply)),
    backedOff: true,
  },
  'hangs up': { misdeed: ({ stream }) => stream.abort(new Error('rogue')), backedOff: true },
  'says nothing': { misdeed: () => {}, backedOff: true },
}

test('no misdeed of a host spoils an answer that an honest one can give', { timeout: 180_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  const host = await swarm.start({ host: 'all' })
  await untilReady(driver, 1)
  const expected = await ask(driver, PROMPT, FIELDS)
  for (const [name, { misdeed, backedOff }] of Object.entries(MISDEEDS)) {
    await t.test(`one that ${name}`, { timeout: 30_000 }, async (tt) => {
      const rogue = await startRogueHost(tt, { swarm: swarm.name, connectTo: driver.addresses, model: swarm.model, misdeed })
      await until(() => peerOf(driver, rogue.peer)?.rttMs != null, { what: 'the driver has measured the rogue' })
      // A host that seemed slow while it started is not called until it was measured anew.
      const { answer, ms } = await until(
        async () => {
          const startedAt = performance.now()
          const asked = await ask(driver, PROMPT, FIELDS)
          assertSame(asked, expected, name)
          return rogue.calls > 0 ? { answer: asked, ms: performance.now() - startedAt } : null
        },
        { what: 'a call to the rogue' },
      )
      assert.ok(answer.report.calls.retried > 0)
      assert.deepEqual(
        answer.report.hosts.map(({ peer }) => peer),
        [host.peer],
      )
      tt.diagnostic(`${rogue.calls} calls to the rogue, ${answer.report.calls.retried} retried, ${ms.toFixed(0)} ms`)
      assert.ok(ms < 10_000, `the answer took ${ms} ms`)
      if (backedOff) assert.ok(peerOf(driver, rogue.peer)!.backoffMs > 0, 'the rogue is not backed off')
      await rogue.stop()
      await until(() => peerOf(driver, rogue.peer)?.connected !== true, { what: 'the rogue is gone' })
    })
  }
})

test('without a replica the query fails at once, naming layer and expert', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  const shards = swarm.model.manifest.blobs.filter((blob) => blob.role === 'experts')
  const missing = shards.filter(({ layer }) => layer === 3)
  const held = shards.filter((shard) => !missing.includes(shard)).map(({ layer, first, last }) => `${layer}:${first}-${last}`)
  const host = await swarm.start({ host: held.join(',') })
  await until(() => peerOf(driver, host.peer)?.rttMs != null, { what: 'the host is linked' })
  assert.equal(driver.status().ready, false)

  const nobody = await failureOf(driver)
  assert.equal(nobody.error.layer, 3)
  assert.ok(nobody.error.expert >= 0 && nobody.error.expert < 16)
  assert.match(nobody.error.message, /^no live host serves expert \d+ of layer 3: nobody announces it/)
  assert.ok(nobody.ms < NO_ROUTE_MS, `it took ${nobody.ms} ms`)
  const response = await fetch(`${driver.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'ember', ...PROMPT }),
  })
  const { error } = (await response.json()) as { error: { code: string; message: string } }
  assert.deepEqual([response.status, error.code], [503, 'no_route'])

  await host.stop()
  const lost = await failureOf(driver)
  assert.equal(lost.error.layer, 0)
  assert.ok(lost.ms < NO_ROUTE_MS, `it took ${lost.ms} ms`)
  t.diagnostic(`failed after ${nobody.ms.toFixed(0)} and ${lost.ms.toFixed(0)} ms`)
})

test('hosts that all refuse give one clear error', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  const busy = ({ reply }: RogueCall): void => reply({ status: 'busy', retryAfterMs: 10 })
  const rogues = await Promise.all(
    Array.from({ length: 7 }, () =>
      startRogueHost(t, { swarm: swarm.name, connectTo: driver.addresses, model: swarm.model, misdeed: busy }),
    ),
  )
  await untilReady(driver, rogues.length, rogues.length)
  const { error, ms } = await failureOf(driver)
  assert.match(error.message, /^no live host serves expert \d+ of layer 0: \d hosts were busy/)
  assert.ok(ms < 2 * NO_ROUTE_MS, `it took ${ms} ms`)
})

test('an only host that is busy for a moment is asked again', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  let calls = 0
  const busyAtFirst = ({ call, reply }: RogueCall): void => {
    const answer = emptyAnswer(call)
    // Layers are answered with zeros; what counts is that the answer comes.
    reply(++calls % 3 === 0 ? { ...answer, rowType: call.rowType } : { status: 'busy', retryAfterMs: 20 })
  }
  await startRogueHost(t, { swarm: swarm.name, connectTo: driver.addresses, model: swarm.model, misdeed: busyAtFirst })
  await untilReady(driver, 1)
  const answer = await ask(driver, PROMPT, { ...FIELDS, maxTokens: 2 })
  assert.equal(answer.tokens.length, 2)
  assert.ok(answer.report.calls.retried >= 2, `${answer.report.calls.retried} retries`)
})

test('a node that waits for a silent host stops all the same', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  const asked = Promise.withResolvers<void>()
  await startRogueHost(t, { swarm: swarm.name, connectTo: driver.addresses, model: swarm.model, misdeed: () => asked.resolve() })
  await untilReady(driver, 1)
  const query = assert.rejects(ask(driver, PROMPT, FIELDS), { name: 'BusyError', message: 'the node is stopping' })
  await asked.promise
  const startedAt = performance.now()
  await driver.stop()
  await query
  assert.ok(performance.now() - startedAt < NO_ROUTE_MS)
})

function peerOf(node: SkeinNode, peer: string): ReturnType<SkeinNode['status']>['peers'][number] | undefined {
  return node.status().peers.find((entry) => entry.peer === peer)
}

async function failureOf(node: SkeinNode): Promise<{ error: NoRouteError; ms: number }> {
  const startedAt = performance.now()
  try {
    await ask(node, PROMPT, FIELDS)
  } catch (error) {
    assert.equal((error as Error).name, 'NoRouteError', String(error))
    return { error: error as NoRouteError, ms: performance.now() - startedAt }
  }
  throw new Error('the query was answered')
}
