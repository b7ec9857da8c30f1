import { z } from 'zod'
import { InvalidRequestError } from '../errors.ts'
import { MAX_USES } from '../../protocols/membership/index.ts'

/** Longest life of an invite. */
const MAX_SECONDS = 366 * 24 * 3600
const SHAPE = z.strictObject({
  /** From now. */
  expiresInSeconds: z.number().int().min(1).max(MAX_SECONDS),
  /** 0 for any number. */
  uses: z.number().int().min(0).max(MAX_USES),
})

/** Throws `InvalidRequestError`. */
export function parseInviteRequest(body: unknown): { expiresAt: number; uses: number } {
  const parsed = SHAPE.safeParse(body)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new InvalidRequestError(`${issue!.path.join('.') || 'the request'}: ${issue!.message}`, issue!.path.map(String).join('.') || null)
  }
  return { expiresAt: Date.now() + parsed.data.expiresInSeconds * 1000, uses: parsed.data.uses }
}
