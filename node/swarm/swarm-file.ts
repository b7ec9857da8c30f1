import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { z } from 'zod'
import { decodeCredential, decodeTerms, encodeCredential, encodeTerms, KEY_BYTES } from '../../protocols/membership/index.ts'
import type { Credential, InviteTerms } from '../../protocols/membership/index.ts'
import { ConfigError } from '../errors.ts'
import type { Invite } from './invite.ts'
import { readJsonFile, writeJsonFile } from './json-file.ts'
import { privateSwarm } from './swarm.ts'
import type { Swarm } from './swarm.ts'

/** A private swarm as a node keeps it in its data directory. */
export interface Membership {
  readonly swarm: Swarm
  readonly secret: Uint8Array
  /** How this node was admitted; empty at the founder, null until it is. */
  readonly credential: Credential | null
  /** What it can show as long as it has no credential. */
  readonly invite: { readonly terms: InviteTerms; readonly seed: Uint8Array } | null
}

const bytes = z
  .string()
  .regex(/^[A-Za-z0-9_-]*$/)
  .transform((text) => new Uint8Array(Buffer.from(text, 'base64url')))
const key = bytes.refine((value) => value.length === KEY_BYTES)
const SHAPE = z.object({
  version: z.literal(1),
  name: z.string(),
  secret: key,
  founder: key,
  credential: bytes.nullable(),
  invite: z.object({ terms: bytes, seed: key }).nullable(),
})

/** Reads what the node keeps of the private swarm of that name; null when it has none. Throws `ConfigError` for a damaged file. */
export async function loadMembership(dataDir: string, name: string): Promise<Membership | null> {
  const file = fileOf(dataDir, name)
  const stored = await readJsonFile(file, SHAPE)
  if (stored === null) return null
  try {
    return {
      swarm: privateSwarm(stored.name, stored.secret, stored.founder),
      secret: stored.secret,
      credential: stored.credential === null ? null : decodeCredential(stored.credential),
      invite: stored.invite === null ? null : { terms: decodeTerms(stored.invite.terms), seed: stored.invite.seed },
    }
  } catch (error) {
    throw new ConfigError(`${file} is damaged: restore it from a copy, or delete it and join the swarm again`, { cause: error })
  }
}

export async function saveMembership(dataDir: string, { swarm, secret, credential, invite }: Membership): Promise<void> {
  await writeJsonFile(fileOf(dataDir, swarm.name), {
    version: 1,
    name: swarm.name,
    secret: text(secret),
    founder: text(swarm.founder!),
    credential: credential === null ? null : text(encodeCredential(credential)),
    invite: invite === null ? null : { terms: text(encodeTerms(invite.terms)), seed: text(invite.seed) },
  })
}

/** A new private swarm, founded by the peer with the raw public key. */
export function foundSwarm(name: string, founder: Uint8Array): Membership {
  const secret = randomBytes(KEY_BYTES)
  return { swarm: privateSwarm(name, secret, founder), secret, credential: [], invite: null }
}

/**
 * What a node keeps once it was invited. A credential that it has for the same swarm stays; a private swarm of that name that is
 * another one is refused with `ConfigError`.
 */
export function joinMembership(invite: Invite, before: Membership | null): Membership {
  const { secret, founder, seed, terms } = invite.keys!
  const swarm = privateSwarm(invite.name, secret, founder)
  if (before !== null && before.swarm.id !== swarm.id) {
    throw new ConfigError(
      `this node is already in another private swarm called "${invite.name}": join with another data directory (--data), or delete its file in swarms/`,
    )
  }
  return { swarm, secret, credential: before?.credential ?? null, invite: { terms, seed } }
}

function fileOf(dataDir: string, name: string): string {
  return join(dataDir, 'swarms', `${name}.json`)
}

function text(value: Uint8Array): string {
  return Buffer.from(value).toString('base64url')
}
