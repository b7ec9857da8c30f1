import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TwoBatchOverlap } from '../../../node/driver/two-batch-overlap.ts'

/** Decodes one token for each of `sequences` on a machine on which a pass of all takes `oneMs`, or two of half of them `twoMs`; returns the ways. */
class Machine {
  readonly overlap = new TwoBatchOverlap()
  oneMs = 10
  twoMs = 10
  #now = 0

  step(sequences: number): number {
    const ways = this.overlap.ways(sequences)
    for (let pass = 0; pass < ways; pass++) {
      this.#now += (ways === 1 ? this.oneMs : this.twoMs) / ways
      this.overlap.took(sequences / ways, sequences, this.#now)
    }
    return ways
  }

  pause(ms: number): void {
    this.#now += ms
  }

  /** Share of steps that went in two passes. */
  shareOfTwo(sequences: number, steps: number): number {
    let two = 0
    for (let step = 0; step < steps; step++) if (this.step(sequences) === 2) two++
    return two / steps
  }
}

/** By then both ways are known. */
const LEARNT = 80

test('two passes where they are faster, one where it is, and both now and then', () => {
  for (const [twoMs, least, most] of [
    [6, 0.9, 0.999],
    [14, 0.001, 0.1],
    // Hardly faster, for twice the calls.
    [9.8, 0.001, 0.1],
  ] as const) {
    const machine = new Machine()
    machine.twoMs = twoMs
    machine.shareOfTwo(8, LEARNT)
    const share = machine.shareOfTwo(8, 2_000)
    assert.ok(share >= least && share <= most, `${share} in two passes of ${twoMs} ms`)
  }
})

test('what was better once is given up when it no longer is', () => {
  const machine = new Machine()
  machine.twoMs = 6
  machine.shareOfTwo(8, LEARNT)
  machine.twoMs = 14
  machine.shareOfTwo(8, LEARNT)
  assert.ok(machine.shareOfTwo(8, 1_000) < 0.1)
  machine.twoMs = 6
  // Two slices have to show it.
  machine.shareOfTwo(8, 3 * 32 * 9)
  assert.ok(machine.shareOfTwo(8, 1_000) > 0.9)
})

test('one sequence goes in one pass, and few tell nothing of many', () => {
  const machine = new Machine()
  machine.twoMs = 6
  assert.equal(machine.shareOfTwo(1, 100), 0)
  machine.shareOfTwo(8, LEARNT)
  machine.twoMs = 14
  machine.shareOfTwo(2, LEARNT)
  assert.ok(machine.shareOfTwo(2, 500) < 0.1)
  machine.twoMs = 6
  assert.ok(machine.shareOfTwo(12, 500) > 0.9)
})

test('prompts that come in every slice do not hold on to the slower way', () => {
  const machine = new Machine()
  machine.twoMs = 14
  machine.shareOfTwo(8, LEARNT)
  let two = 0
  // Never as many tokens as a slice has.
  for (let prompt = 0; prompt < 1_000; prompt++) {
    machine.overlap.interrupt()
    for (let step = 0; step < 4; step++) if (machine.step(8) === 2) two++
  }
  assert.ok(two > 0 && two < 400, `${two} of 4,000 steps`)
})

test('what a prompt or a pause took is not counted', () => {
  const machine = new Machine()
  machine.twoMs = 6
  for (let prompt = 0; prompt < 100; prompt++) {
    // Always in the way that is faster.
    if (machine.step(8) === 2) machine.pause(1_000)
    machine.overlap.interrupt()
    machine.shareOfTwo(8, 20)
  }
  assert.ok(machine.shareOfTwo(8, 500) > 0.9)
})
