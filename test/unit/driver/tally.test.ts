import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Tally } from '../../../node/driver/tally.ts'

test('a query that did nothing reports nothing', () => {
  assert.deepEqual(new Tally({ wire: 'f16', combine: 'host', seed: 7 }).report(), {
    exact: true,
    wire: 'f16',
    combine: 'host',
    seed: 7,
    passes: 0,
    cachedTokens: 0,
    calls: { local: 0, remote: 0, retried: 0 },
    bytes: { sent: 0, received: 0 },
    timeMs: { prompt: 0, decode: 0 },
    meshUs: null,
    expertCache: { hits: 0, picks: 0 },
    hosts: [],
  })
})

test('calls, rows and layers add up per host; hosts come by peer id, layers ascending', () => {
  const tally = new Tally({ wire: 'f32', combine: 'driver', seed: 0 })
  const served = (peer: string, local: boolean, layer: number, rows: number): void =>
    tally.served({
      peer,
      local,
      layer,
      rowOf: new Uint16Array(rows),
      sentBytes: 0,
      receivedBytes: 0,
      picks: 2 * rows,
      cachedPicks: local ? rows : 0,
    })
  served('z', false, 3, 2)
  served('me', true, 0, 5)
  served('z', false, 10, 1)
  served('z', false, 3, 1)
  served('b', false, 0, 1)
  tally.retry()
  const { calls, hosts, expertCache } = tally.report()
  assert.deepEqual(expertCache, { hits: 5, picks: 20 })
  assert.deepEqual(calls, { local: 1, remote: 4, retried: 1 })
  assert.deepEqual(hosts, [
    { peer: 'b', local: false, calls: 1, rows: 1, layers: [0] },
    { peer: 'me', local: true, calls: 1, rows: 5, layers: [0] },
    { peer: 'z', local: false, calls: 3, rows: 4, layers: [3, 10] },
  ])
})

test('the time that the mesh adds is reported by its median and 95th percentile', () => {
  const tally = new Tally({ wire: 'f16', combine: 'host', seed: 0 })
  for (let i = 0; i < 100; i++) tally.layerDone(((i * 37) % 100) + 0.4)
  assert.deepEqual(tally.report().meshUs, { p50: 50, p95: 95 })
})
