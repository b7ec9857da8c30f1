import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TOPICS } from '../../../crdt/schema.ts'
import type { Topic, TopicValues } from '../../../crdt/schema.ts'
import { encodeTopic } from '../../../crdt/topic-codec.ts'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { START_MS, keyNumber, peerOf } from '../../helpers/ledger.ts'

const PEER = peerOf(await keyNumber(1))
const latency = { first: 3, counts: [1, 0, 2] }
const heat = { asOfMs: START_MS, halfLifeMs: 60_000, peak: 2, codes: [255, 3], pairs: { keys: [1], codes: [200] } }

/** Plain values of every topic: arrays stand for typed arrays and entries for maps, so that a field can be exchanged by its path. */
const PLAIN: { readonly [T in Topic]: unknown } = {
  profile: { name: 'a', version: '1', relayed: true, budgetBytes: 4e9 },
  holdings: { m: [[3], [1]] },
  leaving: { m: [[2]] },
  routing: { m: { layers: 1, experts: 2, counts: [5, 6], heat } },
  service: { served: 1, busy: 2, failed: 3, p50Us: 4, p95Us: 5, latency },
  observed: { [PEER]: { rttUs: 1, calls: 2, failures: 3, notHeld: 4, auditsPassed: 5, auditsFailed: 6, latency } },
}

const MAPS: ReadonlySet<Topic> = new Set(['holdings', 'leaving', 'routing', 'observed'])
const BITMAPS: ReadonlySet<Topic> = new Set(['holdings', 'leaving'])

/** Numbers that no field takes: times are rounded, all others but the peak are whole, and none is negative. */
const NO_NUMBERS = [-1, Number.NaN, Infinity, -Infinity, 2 ** 60] as const

type Path = readonly (string | number)[]

/** The paths of all numbers in a value. */
function numbersOf(value: unknown, path: Path = []): Path[] {
  if (typeof value === 'number') return [path]
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, inner]) => numbersOf(inner, [...path, key]))
}

function replaced(value: unknown, path: Path, by: unknown): unknown {
  const [key, ...rest] = path
  if (key === undefined) return by
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string | number, unknown>
  copy[key] = replaced(copy[key], rest, by)
  return copy
}

/** The value as the ledger takes it; bitmaps and codes are bytes, which hold nothing else than bytes. */
function typed<T extends Topic>(topic: T, plain: unknown): TopicValues[T] {
  const value = BITMAPS.has(topic) ? mapValues(plain, (layers) => (layers as number[][]).map((bytes) => Uint8Array.from(bytes))) : plain
  return (MAPS.has(topic) ? new Map(Object.entries(value as object)) : value) as TopicValues[T]
}

function mapValues(value: unknown, change: (inner: unknown) => unknown): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value as object).map(([key, inner]) => [key, change(inner)]))
}

for (const topic of TOPICS) {
  test(`${topic}: the values of this test are good, and no number of them may be out of range`, () => {
    assert.ok(encodeTopic(topic, withBytes(topic, PLAIN[topic])).length > 0)
    const paths = numbersOf(PLAIN[topic]).filter((path) => !BITMAPS.has(topic) && !path.includes('codes'))
    for (const path of paths) {
      for (const wrong of NO_NUMBERS) {
        assert.throws(
          () => encodeTopic(topic, withBytes(topic, replaced(PLAIN[topic], path, wrong))),
          (error) => isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError'),
          `${path.join('.')} = ${wrong}`,
        )
      }
    }
  })
}

/** As {@link typed}, with the codes of a heat map as bytes. */
function withBytes<T extends Topic>(topic: T, plain: unknown): TopicValues[T] {
  if (topic !== 'routing') return typed(topic, plain)
  return typed(
    topic,
    mapValues(plain, (model) => {
      const { heat: stated, ...counted } = model as { heat: typeof heat }
      const { codes, pairs, ...rest } = stated
      return { ...counted, heat: { ...rest, codes: Uint8Array.from(codes), pairs: { ...pairs, codes: Uint8Array.from(pairs.codes) } } }
    }),
  )
}
