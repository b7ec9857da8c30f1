import type { NatKinds, PunchRecord } from './punch/punch-history.ts'

/** What was tried to reach a peer directly. */
export interface DirectTries {
  /** Null with punching switched off. */
  readonly punch: { readonly record: PunchRecord | null } | null
  /** Why the peer's own addresses did not answer; null when none was worth a try. */
  readonly dialFailure: string | null
  readonly nowMs: number
}

const KINDS: Readonly<Record<NatKinds['udp'], string>> = Object.freeze({
  none: 'blocked or not seen by any reflector',
  independent: 'one mapping for all',
  dependent: 'symmetric',
})

/** Why a peer is reached through a relay only, as specific as is known, for people. Pure. */
export function whyRelayed({ punch, dialFailure, nowMs }: DirectTries): string {
  const own = dialFailure === null ? 'no address of its own that could be dialled' : `its own addresses did not answer (${dialFailure})`
  return `${own}; ${punch === null ? 'punching is switched off here (--no-punch)' : whyNotPunched(punch.record, nowMs)}`
}

function whyNotPunched(record: PunchRecord | null, nowMs: number): string {
  if (record === null) return 'no punch was tried yet'
  const ago = `${Math.max(0, Math.round((nowMs - record.at) / 1000))} s ago`
  const tries = `${record.attempts} ${record.attempts === 1 ? 'punch' : 'punches'} in vain, the last ${ago}`
  const failure = record.failure === null ? '' : ` (${record.failure})`
  if (record.mine === null || record.theirs === null) return `${tries}${failure}`
  return `${tries}${failure}: ${verdict(record.mine, record.theirs)} [here UDP ${KINDS[record.mine.udp]}, TCP ${KINDS[record.mine.tcp]}; there UDP ${KINDS[record.theirs.udp]}, TCP ${KINDS[record.theirs.tcp]}]`
}

function verdict(mine: NatKinds, theirs: NatKinds): string {
  if (mine.udp === 'none' && mine.tcp === 'none')
    return 'nobody can tell how this side is seen: there are no two public peers, or UDP and TCP are blocked here'
  if (theirs.udp === 'none' && theirs.tcp === 'none') return 'nobody can tell how the other side is seen'
  if (mine.udp === 'dependent' && theirs.udp === 'dependent')
    return 'the routers of both sides map each destination to another port (symmetric NAT)'
  if (mine.udp === 'none') return 'UDP is blocked here, and the routers let no TCP through'
  if (theirs.udp === 'none') return 'UDP is blocked on the other side, and the routers let no TCP through'
  return 'a firewall on one of the sides drops what the other sends; it is tried again'
}
