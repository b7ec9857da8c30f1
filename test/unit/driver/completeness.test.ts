import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Completeness } from '../../../node/driver/completeness.ts'
import type { DrivenModel } from '../../../node/driver/generation.ts'
import type { NoRouteError } from '../../../node/errors.ts'

const shard = (layer: number) => ({ role: 'experts', layer, first: 0, last: 1, bytes: 500, cid: `layer-${layer}` })
const MODEL = {
  id: 'model',
  manifest: { config: { layers: 2, experts: 2 }, blobs: [{ role: 'head' }, shard(0), shard(1)] },
} as unknown as DrivenModel

/** Completeness over a swarm in which the named layers have a linked host, and others an announcement only. */
function over(init: { linked: Set<number>; announced?: Set<number>; discover?: (layer: number) => Promise<boolean> }) {
  const asked: number[] = []
  const completeness = new Completeness({
    holders: { candidates: () => [{ peer: 'host', local: false, holds: (layer) => init.linked.has(layer) }] },
    announcers: (_model, layer) => (init.announced?.has(layer) === true ? ['other'] : []),
    discover: async (_model, layer) => {
      asked.push(layer)
      return (await init.discover?.(layer)) ?? false
    },
  })
  return { completeness, asked }
}

test('a model of which every expert has a host passes without a look-up, also when one is announced and not linked yet', async () => {
  const { completeness, asked } = over({ linked: new Set([0]), announced: new Set([1]) })
  await completeness.check(MODEL)
  assert.deepEqual(asked, [])
})

test('what nobody has is looked for once, and the refusal says what is missing', async () => {
  const { completeness, asked } = over({ linked: new Set([0]) })
  for (let i = 0; i < 2; i++) {
    await assert.rejects(completeness.check(MODEL), (error: NoRouteError) => {
      assert.deepEqual([error.name, error.layer, error.expert], ['NoRouteError', 1, 0])
      assert.match(error.message, /nobody announces it; 2 of 4 experts have no host \(layer 1\); 0\.0 MB more/)
      return true
    })
  }
  assert.deepEqual(asked, [1])
})

test('a look-up that finds a host lets the query through', async () => {
  const linked = new Set([0])
  const { completeness } = over({
    linked,
    discover: async (layer) => {
      linked.add(layer)
      return true
    },
  })
  await completeness.check(MODEL)
})

test('a look-up begun in the background lets the next query know at once', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { completeness } = over({ linked: new Set([0]) })
  completeness.seek(MODEL)
  await new Promise((resolve) => setImmediate(resolve))
  await assert.rejects(completeness.check(MODEL), { name: 'NoRouteError' })
})

test('a first look-up that takes long does not hold the query: the dispatcher looks further', async () => {
  const { completeness } = over({ linked: new Set([0]), discover: () => new Promise(() => {}) })
  await completeness.check(MODEL)
})
