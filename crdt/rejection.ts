import { MeshError } from '../protocols/wire/errors.ts'

/**
 * Why a record was not applied. The first group is nobody's fault (clocks, delivery order, a full ledger, another version);
 * an honest peer forwards nothing of the second.
 */
export const HARMLESS_REASONS = Object.freeze(['stale', 'expired', 'future', 'full', 'version'] as const)
export const FAULTY_REASONS = Object.freeze([
  'oversized',
  'malformed',
  'swarm',
  'signature',
  'update',
  'foreign-client',
  'foreign-root',
  'topic',
] as const)

export type RejectionReason = (typeof HARMLESS_REASONS)[number] | (typeof FAULTY_REASONS)[number]

/** A record that must not be applied; `reason` is what the counters and the gossip validator go by. */
export class RejectedRecordError extends MeshError {
  override name = 'RejectedRecordError'
  readonly reason: RejectionReason

  constructor(reason: RejectionReason, message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}

/** Whether a peer that forwards such a record misbehaves. */
export function isFaulty(reason: RejectionReason): boolean {
  return (FAULTY_REASONS as readonly string[]).includes(reason)
}
