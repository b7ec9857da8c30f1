import { ByteWriter } from '../../protocols/ledger/bytes.ts'
import { InvalidMessageError } from '../../protocols/wire/errors.ts'
import { KEY_BYTES, keyOfPeer, peerOfKey } from '../peer-key.ts'
import { LIMITS } from '../schema.ts'
import type { Observation, Observed } from '../schema.ts'
import { bounded } from './codec.ts'
import type { TopicCodec } from './codec.ts'
import { readSketch, writeSketch } from './sketch.ts'

/** `[varint n]`, then per peer, by key in ascending order: the key, six varints, the sketch. */
export const observed: TopicCodec<Observed> = {
  encode(value) {
    const writer = new ByteWriter().varint(value.size)
    const entries = [...value].map(([peer, observation]) => ({ key: keyOf(peer), observation }))
    for (const { key, observation } of entries.sort((a, b) => Buffer.compare(a.key, b.key))) {
      writer.raw(key).varint(Math.round(observation.rttUs))
      for (const field of COUNTS) writer.varint(observation[field])
      writeSketch(writer, observation.latency)
    }
    return writer.finish()
  },
  decode(reader) {
    const count = bounded(reader.varint(), 0, LIMITS.maxObserved, 'observed peers')
    const peers = new Map<string, Observation>()
    let last: Uint8Array | null = null
    for (let i = 0; i < count; i++) {
      const key = reader.raw(KEY_BYTES)
      if (last !== null && Buffer.compare(last, key) >= 0) throw new InvalidMessageError('the peers of a topic are not in order')
      last = key
      const rttUs = bounded(reader.varint(), 0, LIMITS.maxRttUs, 'µs of round trip')
      const [calls, failures, notHeld, auditsPassed, auditsFailed] = COUNTS.map(() => reader.varint()) as [
        number,
        number,
        number,
        number,
        number,
      ]
      peers.set(peerOfKey(key), { rttUs, calls, failures, notHeld, auditsPassed, auditsFailed, latency: readSketch(reader) })
    }
    return peers
  },
}

const COUNTS = ['calls', 'failures', 'notHeld', 'auditsPassed', 'auditsFailed'] as const

function keyOf(peer: string): Uint8Array {
  const key = keyOfPeer(peer)
  if (key === null) throw new InvalidMessageError(`${peer} is not the peer id of an Ed25519 key`)
  return key
}
