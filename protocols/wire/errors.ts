/**
 * Every failure that some caller treats differently has one class here or in `node/errors.ts`.
 * Told apart by `name` (see {@link isMeshError}), never by message.
 */
export class MeshError extends Error {
  override name = 'MeshError'
}

/** Bytes or fields from a peer, a file or an author that do not follow their specification. */
export class InvalidMessageError extends MeshError {
  override name = 'InvalidMessageError'
}

/** Something well-formed but larger or more numerous than its named limit. */
export class LimitExceededError extends MeshError {
  override name = 'LimitExceededError'
}

/** A deadline passed before the answer came. */
export class DeadlineError extends MeshError {
  override name = 'DeadlineError'
}

/** The peer can't be reached, or its link broke before the answer came. */
export class PeerLostError extends MeshError {
  override name = 'PeerLostError'
}

/** The peer answered, and refused: `status` says why. */
export class PeerRefusedError extends MeshError {
  override name = 'PeerRefusedError'
  readonly status: string
  /** How long the peer asks to be left alone, in milliseconds; 0 when it did not say. */
  readonly retryAfterMs: number
  /** Experts that the peer says it does not hold. */
  readonly experts: readonly number[]

  constructor(status: string, message: string, detail: { readonly retryAfterMs?: number; readonly experts?: readonly number[] } = {}) {
    super(message)
    this.status = status
    this.retryAfterMs = detail.retryAfterMs ?? 0
    this.experts = detail.experts ?? []
  }
}

export function isMeshError(error: unknown, name: string): boolean {
  return error instanceof Error && error.name === name
}
