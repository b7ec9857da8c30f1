import type { Ed25519PrivateKey } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import { signTerms } from '../../protocols/membership/index.ts'
import { ConfigError, InvalidRequestError } from '../errors.ts'
import { openGate, PrivateGate } from './gatekeeper.ts'
import type { Gatekeeper } from './gatekeeper.ts'
import { InviteBook } from './invite-book.ts'
import { encodeInvite, inviteKeyOf, MAX_INVITE_ADDRESSES, newSeed } from './invite.ts'
import { foundSwarm, loadMembership, saveMembership } from './swarm-file.ts'
import { openSwarm } from './swarm.ts'

export interface SwarmGateInit {
  readonly dataDir: string
  readonly swarm: string
  /** Found a private swarm of that name if the node is in none yet. */
  readonly isPrivate: boolean
  readonly privateKey: Ed25519PrivateKey
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

export interface InviteOptions {
  /** Milliseconds since 1970. */
  readonly expiresAt: number
  /** Peers that it admits; 0 for any number. */
  readonly uses: number
  /** Ways to this node and others, the best first. */
  readonly addresses: readonly Multiaddr[]
}

/** The gate of the swarm that a node is to be in, and the invites to it. */
export interface SwarmGate {
  readonly gate: Gatekeeper
  /** False in an open swarm, and once this node was admitted to a private one. */
  isWaitingForAdmission(): boolean
  /** An invite as text. Throws `InvalidRequestError` while this node itself is not admitted, and for what the swarm can't do. */
  invite(options: InviteOptions): Promise<string>
}

/** Opens the private swarm that the data directory knows under the name, founds one if asked to, or else opens the open swarm. */
export async function openSwarmGate(init: SwarmGateInit): Promise<SwarmGate> {
  const { dataDir, swarm: name, privateKey, log } = init
  const save = (membership: Parameters<typeof saveMembership>[1]): Promise<void> => saveMembership(dataDir, membership)
  let membership = await loadMembership(dataDir, name)
  if (membership === null && !init.isPrivate) {
    const swarm = openSwarm(name)
    return {
      gate: openGate(swarm),
      isWaitingForAdmission: () => false,
      invite: async ({ expiresAt, uses, addresses }) => {
        if (uses > 0) throw new InvalidRequestError('an open swarm cannot count the uses of an invite: leave out --uses', 'uses')
        return encodeInvite({ name, expiresAt, addresses: addresses.slice(0, MAX_INVITE_ADDRESSES), keys: null })
      },
    }
  }
  if (membership === null) {
    if (name === 'public') throw new ConfigError('--private: a private swarm needs a name of its own (--swarm <name>)')
    membership = foundSwarm(name, privateKey.publicKey.raw)
    await save(membership)
    log('swarm.founded', { swarm: name })
  }
  const invites = await InviteBook.open(dataDir, name)
  const gate = new PrivateGate({ membership, invites, privateKey, save, log })
  const { secret } = membership
  return {
    gate,
    isWaitingForAdmission: () => gate.membership.credential === null,
    invite: async ({ expiresAt, uses, addresses }) => {
      if (gate.membership.credential === null) throw new InvalidRequestError('this node is not admitted to the swarm itself yet')
      const seed = newSeed()
      const { swarm } = gate
      const terms = await signTerms(
        swarm.tag,
        { inviter: privateKey.publicKey.raw, inviteKey: inviteKeyOf(seed), expiresAt, uses },
        (bytes) => privateKey.sign(bytes),
      )
      await invites.add(terms.inviteKey, expiresAt, uses)
      const keys = { secret, founder: swarm.founder!, seed, terms }
      return encodeInvite({ name, expiresAt, addresses: addresses.slice(0, MAX_INVITE_ADDRESSES), keys })
    },
  }
}
