import { createHash, hkdfSync } from 'node:crypto'
import { KEY_BYTES } from '../../protocols/membership/index.ts'

/** What makes a swarm this one and no other. */
export interface Swarm {
  readonly name: string
  /** Names its DHT, ledger and gossip: the name alone for an open swarm. */
  readonly id: string
  /** The id as signatures and proofs have it, 32 bytes. */
  readonly tag: Uint8Array
  /** Proves membership; of an open swarm everybody can compute it. */
  readonly proofKey: Uint8Array
  /** Encrypts every TCP byte (pnet); null for an open swarm. */
  readonly transportKey: Uint8Array | null
  /** Raw Ed25519 public key of the peer that founded a private swarm; null for an open one. */
  readonly founder: Uint8Array | null
}

/** Characters of the id that tell private swarms of one name apart. */
const ID_DIGITS = 16

/** A swarm that everybody who knows its name may join. */
export function openSwarm(name: string): Swarm {
  const tag = createHash('sha256').update(`skein open swarm 1\0${name}`).digest()
  return { name, id: name, tag, proofKey: derive(tag, 'membership'), transportKey: null, founder: null }
}

/** A swarm of those that its founder, or somebody it admitted, has admitted. `secret` is known to all of them. */
export function privateSwarm(name: string, secret: Uint8Array, founder: Uint8Array): Swarm {
  const tag = createHash('sha256').update(`skein private swarm 1\0${name}\0`).update(founder).update(derive(secret, 'tag')).digest()
  return {
    name,
    id: `${name}-${tag.toString('hex').slice(0, ID_DIGITS)}`,
    tag,
    proofKey: derive(secret, 'membership'),
    transportKey: derive(secret, 'transport'),
    founder,
  }
}

/** The protocol of the swarm's own DHT. */
export function dhtProtocol({ id }: Swarm): string {
  return `/skein/${id}/kad/1.0.0`
}

function derive(secret: Uint8Array, use: string): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', secret, new Uint8Array(), `skein ${use} 1`, KEY_BYTES))
}
