import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BF16 } from '../../../../node/model/dtypes/plain.ts'

const isFinite16 = (half: number): boolean => (half & 0x7f80) !== 0x7f80

test('BF16: every code is the upper half of its number, wherever it stands', () => {
  const finite = Array.from({ length: 65_536 }, (_, code) => code).filter(isFinite16)
  for (const codes of [finite, finite.slice(1), [0x3f80], []]) {
    const into = new Float32Array(codes.length + 2).fill(7)
    assert.ok(BF16.decode(new Uint8Array(Uint16Array.from([1, 1, ...codes]).buffer), 4, codes.length, into, 1))
    const words = new Uint32Array(into.buffer)
    assert.deepEqual(
      [...words.subarray(1, -1)].map((word) => word >>> 16),
      codes,
    )
    assert.ok(words.every((word, i) => i === 0 || i === codes.length + 1 || (word & 0xffff) === 0))
    assert.deepEqual([into[0], into.at(-1)], [7, 7])
  }
})

test('BF16: a number that is not finite is seen at every place', () => {
  for (const code of [0x7f80, 0xff80, 0x7fc0, 0xffff]) {
    for (const length of [1, 2, 3, 4]) {
      for (let place = 0; place < length; place++) {
        const codes = new Uint16Array(length).fill(0xff7f)
        const bytes = new Uint8Array(codes.buffer)
        assert.ok(BF16.decode(bytes, 0, length, new Float32Array(length), 0))
        codes[place] = code
        assert.ok(!BF16.decode(bytes, 0, length, new Float32Array(length), 0), `${code.toString(16)} at ${place} of ${length}`)
      }
    }
  }
})
