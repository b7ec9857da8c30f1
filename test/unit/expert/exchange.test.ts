import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { setImmediate as turn } from 'node:timers/promises'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { EXPERT_LIMITS as LIMITS } from '../../../protocols/expert/protocol.ts'
import { callOf, clientAndHandler, echoOf, handlerAndPuppet, settle } from '../../helpers/expert-stream.ts'

test('client and host agree: every call gets its own answer, in flight never more than granted', async (t) => {
  let running = 0
  let most = 0
  const { client, violations } = await clientAndHandler(t, {
    credits: 4,
    serve: async (call) => {
      most = Math.max(most, ++running)
      // Later calls answer sooner.
      for (let i = 0; i < 8 - (call.layer % 8); i++) await turn()
      running--
      return echoOf(call)
    },
  })
  const marks = Array.from({ length: 40 }, (_, i) => i + 1)
  const results = await Promise.all(marks.map((mark) => client.call(callOf({ layer: mark }, mark))))
  assert.deepEqual(
    results.map((result) => result.data[0]),
    marks,
  )
  assert.equal(most, 4)
  assert.deepEqual(violations, [])
})

test('a client that cancels most of its calls loses no credit', async (t) => {
  const { client, violations } = await clientAndHandler(t, {
    credits: 2,
    serve: async (call) => {
      await turn()
      return call.isCancelled() ? { status: 'cancelled' } : echoOf(call)
    },
  })
  const outcomes = await Promise.allSettled(
    Array.from({ length: 30 }, (_, i) => {
      const abort = new AbortController()
      const call = client.call(callOf({}, i), { signal: abort.signal })
      if (i % 3 !== 0) void turn().then(() => abort.abort(new Error('not wanted any more')))
      return call
    }),
  )
  assert.ok(outcomes.every((outcome, i) => outcome.status === 'fulfilled' || i % 3 !== 0))
  await settle()
  assert.equal(client.load, 0)
  await Promise.all([client.call(callOf()), client.call(callOf())])
  assert.deepEqual(violations, [])
})

test('rows of a frame near the limit go through whole', async (t) => {
  const { client } = await clientAndHandler(t, { serve: async (call) => echoOf(call) })
  const rows = 1000
  const width = 4096
  const call = callOf({
    rows,
    width,
    x: Float32Array.from({ length: rows * width }, (_, i) => i % 1000),
    pickRow: Uint16Array.from({ length: rows }, (_, i) => i),
    pickExpert: new Uint16Array(rows),
    pickWeight: new Float32Array(rows),
  })
  const result = await client.call(call)
  assert.equal(Buffer.compare(Buffer.from(result.data.buffer), Buffer.from(call.x.buffer)), 0)
})

test('whatever bytes a driver sends, the host answers, or ends the stream for one of three errors', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array({ minLength: 1, maxLength: 64 }), { minLength: 1, maxLength: 6 }), async (chunks) => {
      const driver = await handlerAndPuppet(t)
      // Small first bytes make lengths that a frame can have.
      for (const chunk of chunks) driver.stream.send(chunk)
      await settle()
      for (const error of driver.violations) {
        assert.ok(isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError'), String(error))
      }
      assert.ok(driver.violations.length <= LIMITS.maxMalformedCalls + 1)
      driver.stream.abort(new Error('next'))
    }),
    { numRuns: 60 },
  )
})
