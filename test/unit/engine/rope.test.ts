/** Rotary embedding as config.json asks for it, against the frequencies of Hugging Face transformers in test/golden/rope.json. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { Rope } from '../../../node/engine/rope.ts'
import { readRope } from '../../../node/model/architectures/rope.ts'
import { HfConfig } from '../../../node/model/hf-config.ts'

/** The reference computes in float32. */
const TOLERANCE = 1e-6

interface RopeCase {
  readonly name: string
  readonly config: Readonly<Record<string, unknown>>
  /** Length of the sequence; dynamic scaling depends on it. */
  readonly tokens: number
  readonly magnitude: number
  readonly frequencies: readonly number[]
}

const { cases } = JSON.parse(readFileSync(new URL('../../golden/rope.json', import.meta.url), 'utf8')) as { cases: readonly RopeCase[] }

for (const { name, config, tokens, magnitude, frequencies } of cases) {
  test(`${name}: the frequencies are those of the reference`, () => {
    const size = (config['head_dim'] ?? config['qk_rope_head_dim']) as number
    const partial = 'num_key_value_heads' in config ? { partial: 0.5 } : {}
    const { rope } = readRope(new HfConfig(config, 'config.json'), { theta: 10_000, size, ...partial })
    assert.equal(rope.dim, 2 * frequencies.length)
    const position = Math.max(1, tokens - 1)
    const { cos, sin } = new Rope(rope).rotations(position, 1)
    for (const [i, frequency] of frequencies.entries()) {
      const expected = position * frequency
      const angle = Math.atan2(sin[i]!, cos[i]!)
      const difference = Math.atan2(Math.sin(angle - expected), Math.cos(angle - expected))
      assert.ok(Math.abs(difference) <= TOLERANCE * expected, `frequency ${i} turns by ${angle} instead of ${expected}`)
      assert.ok(Math.abs(Math.hypot(sin[i]!, cos[i]!) - magnitude) <= TOLERANCE, `magnitude ${i}`)
    }
  })
}

test('rotations of several positions are those of each', () => {
  const rope = new Rope({ theta: 10_000, dim: 8, interleaved: false, scaling: { kind: 'linear', factor: 2 } })
  const together = rope.rotations(5, 3)
  for (let i = 0; i < 3; i++) {
    const alone = rope.rotations(5 + i, 1)
    assert.deepEqual(together.cos.subarray(i * 4, i * 4 + 4), alone.cos)
    assert.deepEqual(together.sin.subarray(i * 4, i * 4 + 4), alone.sin)
  }
})

test('scaled positions lengthen the context', () => {
  const context = (fields: Record<string, unknown>): number =>
    readRope(new HfConfig({ max_position_embeddings: 4096, ...fields }, 'config.json'), { theta: 10_000, size: 64 }).maxContext
  assert.equal(context({}), 4096)
  assert.equal(context({ rope_scaling: { type: 'linear', factor: 2.5 } }), 10_240)
  assert.equal(context({ rope_scaling: { type: 'dynamic', factor: 2 } }), 8192)
  assert.equal(context({ rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 4096 } }), 16_384)
  assert.equal(context({ rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 512 } }), 4096)
  assert.equal(context({ rope_parameters: { rope_type: 'yarn', original_max_position_embeddings: 512 } }), 4096)
})

test('what is not known is refused by name', () => {
  const read = (fields: Record<string, unknown>) => () =>
    readRope(new HfConfig({ max_position_embeddings: 4096, ...fields }, 'config.json'), { theta: 10_000, size: 64 })
  const refused: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [
      { rope_scaling: { type: 'su', factor: 2 } },
      /rope_scaling .* known kinds of rotary embedding: default, linear, dynamic, yarn, llama3/,
    ],
    [{ rope_scaling: 'yarn' }, /rope_scaling is "yarn"; expected an object/],
    [{ rope_parameters: { rope_type: 'longrope', long_factor: [] } }, /rope_parameters .* known kinds/],
    [{ rope_scaling: { type: 'linear' } }, /rope_scaling\.factor is missing/],
    [{ rope_scaling: { type: 'linear', factor: -1 } }, /rope_scaling\.factor is -1; expected a number above 0/],
    [{ rope_scaling: { type: 'llama3', factor: 8 } }, /rope_scaling\.low_freq_factor is missing/],
    [{ rope_scaling: { type: 'default', mrope_section: [1] } }, /kind default does not use mrope_section/],
    [{ rope_parameters: { full_attention: { rope_type: 'default' } } }, /does not use full_attention/],
    [{ rope_theta: 0 }, /rope_theta is 0/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor 0\.5 is not supported: this architecture rotates whole heads/],
  ]
  for (const [fields, message] of refused) assert.throws(read(fields), { name: 'ModelError', message })
})
