import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RelayBudget } from '../../../node/net/relay-budget.ts'

/** 1,000 bytes a second, and a clock that the test turns. */
function budget(): { budget: RelayBudget; pass: (ms: number) => void } {
  let now = 0
  return { budget: new RelayBudget({ bytesPerMinute: 60_000, now: () => now }), pass: (ms) => void (now += ms) }
}

/** Bytes that each peer moves in `seconds` when each sends 10 bytes whenever it may. */
function race(peers: readonly string[], seconds: number): number[] {
  const { budget: shared, pass } = budget()
  const freeAt = peers.map(() => 0)
  const moved = peers.map(() => 0)
  for (let ms = 0; ms < seconds * 1000; ms++) {
    peers.forEach((peer, i) => {
      if (freeAt[i]! > ms) return
      moved[i]! += 10
      freeAt[i] = ms + shared.spend(peer, 10)
    })
    pass(1)
  }
  return moved
}

test('a lone peer gets the whole rate, after one burst of two seconds', () => {
  const [moved] = race(['a'], 10)
  assert.ok(moved! > 11_500 && moved! < 12_500, `${moved}`)
})

test('peers that all want more get equal shares, and together no more than the rate', () => {
  const moved = race(['a', 'b', 'c', 'd'], 30)
  const sum = moved.reduce((a, b) => a + b)
  assert.ok(sum > 29_000 && sum < 36_000, `${sum}`)
  assert.ok(Math.max(...moved) / Math.min(...moved) < 1.2, moved.join())
})

test('a share that is not used is given to the others once its peer rests', () => {
  const { budget: shared, pass } = budget()
  shared.spend('a', 10)
  assert.equal(shared.spend('b', 1_000), 0)
  // Half the rate is b's as long as a was active lately.
  assert.ok(shared.spend('b', 1_000) > 1_000)
  pass(10_000)
  assert.equal(shared.spend('b', 2_000), 0)
  assert.ok(shared.spend('b', 1_000) <= 1_000)
  assert.equal(shared.moved, 5_010)
})
