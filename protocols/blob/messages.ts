/** Codecs of `/skein/blob/1`; byte layouts in README.md. Pure. Decoders throw `InvalidMessageError` or `LimitExceededError`. */
import { InvalidMessageError, LimitExceededError } from '../wire/errors.ts'
import { BLOB_LIMITS as LIMITS, Status } from './protocol.ts'
import type { StatusName } from './protocol.ts'

/** A part of a blob. */
export interface RangeRequest {
  /** SHA-256 digest of the blob, lower-case hex. */
  readonly digest: string
  readonly offset: number
  /** Bytes asked for; 0 asks for the blob's size alone. */
  readonly length: number
}

export type RangeReply =
  /** `bytes` is shorter than asked only where the blob ends. */
  | { readonly status: 'ok'; readonly blobBytes: number; readonly bytes: Uint8Array }
  | { readonly status: 'busy'; readonly retryAfterMs: number }
  | { readonly status: Exclude<StatusName, 'ok' | 'busy'> | 'unknown' }

const DIGEST_BYTES = 32
const REQUEST_BYTES = DIGEST_BYTES + 12
const REPLY_HEADER_BYTES = 8
const OK_HEADER_BYTES = REPLY_HEADER_BYTES + 8

export function encodeRequest(request: RangeRequest): Uint8Array {
  const out = new Uint8Array(REQUEST_BYTES)
  const view = new DataView(out.buffer)
  out.set(Buffer.from(request.digest, 'hex'))
  view.setBigUint64(DIGEST_BYTES, BigInt(request.offset), true)
  view.setUint32(DIGEST_BYTES + 8, request.length, true)
  return out
}

export function decodeRequest(bytes: Uint8Array): RangeRequest {
  if (bytes.length !== REQUEST_BYTES) throw new InvalidMessageError(`request of ${bytes.length} bytes, ${REQUEST_BYTES} are needed`)
  const view = viewOf(bytes)
  const length = view.getUint32(DIGEST_BYTES + 8, true)
  if (length > LIMITS.maxRangeBytes) throw new LimitExceededError(`a range of ${length} bytes exceeds the limit of ${LIMITS.maxRangeBytes}`)
  return {
    digest: Buffer.from(bytes.buffer, bytes.byteOffset, DIGEST_BYTES).toString('hex'),
    offset: wholeNumber(view.getBigUint64(DIGEST_BYTES, true), 'offset'),
    length,
  }
}

/** The parts of a reply's payload. */
export function encodeReply(reply: RangeReply): Uint8Array[] {
  const header = new Uint8Array(reply.status === 'ok' ? OK_HEADER_BYTES : REPLY_HEADER_BYTES)
  const view = new DataView(header.buffer)
  view.setUint16(0, reply.status === 'unknown' ? Status.failed : Status[reply.status], true)
  if (reply.status === 'busy') view.setUint32(4, Math.max(0, Math.min(LIMITS.maxRetryAfterMs, Math.round(reply.retryAfterMs))), true)
  if (reply.status !== 'ok') return [header]
  view.setBigUint64(REPLY_HEADER_BYTES, BigInt(reply.blobBytes), true)
  return [header, reply.bytes]
}

/** `bytes` of the result share memory with the payload. */
export function decodeReply(payload: Uint8Array): RangeReply {
  if (payload.length < REPLY_HEADER_BYTES) throw new InvalidMessageError(`reply of ${payload.length} bytes, at least 8 are needed`)
  const view = viewOf(payload)
  const code = view.getUint16(0, true)
  if (code === Status.ok) {
    if (payload.length < OK_HEADER_BYTES) throw new InvalidMessageError('reply ends within its header')
    const bytes = payload.subarray(OK_HEADER_BYTES)
    if (bytes.length > LIMITS.maxRangeBytes) throw new LimitExceededError(`a range of ${bytes.length} bytes was not asked for`)
    return { status: 'ok', blobBytes: wholeNumber(view.getBigUint64(REPLY_HEADER_BYTES, true), 'size'), bytes }
  }
  if (code === Status.busy) return { status: 'busy', retryAfterMs: Math.min(LIMITS.maxRetryAfterMs, view.getUint32(4, true)) }
  const name = (Object.keys(Status) as StatusName[]).find((key) => Status[key] === code)
  return { status: (name ?? 'unknown') as 'unknown' }
}

function wholeNumber(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new LimitExceededError(`${what} ${value} is beyond any blob`)
  return Number(value)
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
