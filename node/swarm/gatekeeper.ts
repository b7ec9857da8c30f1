import type { Ed25519PrivateKey } from '@libp2p/interface'
import {
  areTermsSigned,
  decodeClaim,
  decodeCredential,
  encodeClaim,
  encodeCredential,
  extendCredential,
  isCredentialOf,
  isPossessed,
  possessionBytes,
} from '../../protocols/membership/index.ts'
import type { Credential, InviteClaim, Judgement, Papers, Transcript } from '../../protocols/membership/index.ts'
import { isMeshError } from '../../protocols/wire/errors.ts'
import { signWithSeed } from './invite.ts'
import type { InviteBook } from './invite-book.ts'
import type { Membership } from './swarm-file.ts'
import type { Swarm } from './swarm.ts'

/** Who is let into a swarm, as the mesh asks it on each connection. */
export interface Gatekeeper {
  readonly swarm: Swarm
  /** What this node shows to those that connect to it. */
  credential(): Uint8Array
  /** What it shows to those it connects to. */
  papers(transcript: Transcript): Papers
  /** Whether a listener with the raw public key may be used. */
  isAdmitted(credential: Uint8Array, peer: Uint8Array): boolean
  /** Whether a dialler may use this node. */
  judge(papers: Papers, transcript: Transcript): Promise<Judgement>
  /** A peer has granted a credential for this node's invite. False when it is not good. */
  accept(granted: Uint8Array): Promise<boolean>
}

const NOTHING = new Uint8Array()

/** Everybody who can compute the proof of an open swarm, that is, who knows its name. */
export function openGate(swarm: Swarm): Gatekeeper {
  return {
    swarm,
    credential: () => NOTHING,
    papers: () => ({ kind: 'none', bytes: NOTHING }),
    isAdmitted: () => true,
    judge: async () => ({ verdict: 'member' }),
    accept: async () => false,
  }
}

export interface PrivateGateInit {
  readonly membership: Membership
  readonly invites: InviteBook
  readonly privateKey: Ed25519PrivateKey
  readonly save: (membership: Membership) => Promise<void>
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** Credentials of other members remembered, so that invites of members met are honoured. */
const MAX_REMEMBERED = 4_096

/** Those that a member of the private swarm has admitted. */
export class PrivateGate implements Gatekeeper {
  readonly #init: PrivateGateInit
  readonly #self: Uint8Array
  #membership: Membership
  /** Raw public key, hex → credential, checked. */
  readonly #known = new Map<string, Credential>()

  constructor(init: PrivateGateInit) {
    this.#init = init
    this.#membership = init.membership
    this.#self = init.privateKey.publicKey.raw
  }

  get swarm(): Swarm {
    return this.#membership.swarm
  }

  get membership(): Membership {
    return this.#membership
  }

  credential(): Uint8Array {
    return this.#membership.credential === null ? NOTHING : encodeCredential(this.#membership.credential)
  }

  papers(transcript: Transcript): Papers {
    const { credential, invite } = this.#membership
    if (credential !== null) return { kind: 'credential', bytes: encodeCredential(credential) }
    if (invite === null) return { kind: 'none', bytes: NOTHING }
    const possession = signWithSeed(invite.seed, possessionBytes(transcript))
    return { kind: 'claim', bytes: encodeClaim({ ...invite.terms, possession }) }
  }

  isAdmitted(credential: Uint8Array, peer: Uint8Array): boolean {
    try {
      const links = decodeCredential(credential)
      if (!this.#isMember(links, peer)) return false
      this.#remember(peer, links)
      return true
    } catch {
      return false
    }
  }

  async judge(papers: Papers, transcript: Transcript): Promise<Judgement> {
    if (papers.kind === 'claim') return await this.#judgeClaim(decodeClaim(papers.bytes), transcript)
    // The founder's credential has no links.
    const isGood = papers.kind === 'credential' && this.isAdmitted(papers.bytes, transcript.dialer)
    return { verdict: isGood ? 'member' : 'notAdmitted' }
  }

  async accept(granted: Uint8Array): Promise<boolean> {
    if (granted.length === 0) return false
    const credential = decodeCredential(granted)
    if (!this.#isMember(credential, this.#self)) return false
    this.#membership = { ...this.#membership, credential, invite: null }
    await this.#init.save(this.#membership)
    this.#init.log('swarm.admitted', { swarm: this.swarm.name })
    return true
  }

  async #judgeClaim(claim: InviteClaim, transcript: Transcript): Promise<Judgement> {
    const { invites, privateKey, log } = this.#init
    const { credential } = this.#membership
    const { swarm, dialer } = transcript
    if (credential === null || !areTermsSigned(swarm, claim) || !isPossessed(claim, transcript)) return { verdict: 'notAdmitted' }
    if (claim.expiresAt < Date.now()) return { verdict: 'expired' }
    if (Buffer.compare(claim.inviter, this.#self) === 0) {
      const admission = await invites.admit(claim.inviteKey, dialer, Date.now())
      if (admission !== 'admitted') return { verdict: admission === 'unknown' ? 'notAdmitted' : admission }
    } else if (claim.uses > 0 || !this.#isKnown(claim.inviter)) {
      // Only the inviter can count; and a stranger's word is worth nothing.
      return { verdict: 'askInviter' }
    }
    try {
      const sign = (bytes: Uint8Array): Uint8Array | Promise<Uint8Array> => privateKey.sign(bytes)
      const granted = await extendCredential({ swarm, issuer: this.#self, credential, sign }, dialer, Date.now())
      this.#remember(dialer, granted)
      log('swarm.admits', { peer: Buffer.from(dialer).toString('hex').slice(0, 16) })
      return { verdict: 'member', credential: encodeCredential(granted) }
    } catch (error) {
      if (isMeshError(error, 'InvalidMessageError')) return { verdict: 'notAdmitted' }
      throw error
    }
  }

  #isMember(credential: Credential, subject: Uint8Array): boolean {
    return isCredentialOf(credential, { swarm: this.swarm.tag, founder: this.swarm.founder!, subject })
  }

  #isKnown(member: Uint8Array): boolean {
    return Buffer.compare(member, this.swarm.founder!) === 0 || this.#known.has(Buffer.from(member).toString('hex'))
  }

  #remember(peer: Uint8Array, credential: Credential): void {
    const key = Buffer.from(peer).toString('hex')
    this.#known.delete(key)
    if (this.#known.size >= MAX_REMEMBERED) this.#known.delete(this.#known.keys().next().value!)
    this.#known.set(key, credential)
  }
}
