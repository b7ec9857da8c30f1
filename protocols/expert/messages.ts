/** Codecs of `/skein/expert/1`; byte layouts in README.md. Pure. Decoders throw `InvalidMessageError` or `LimitExceededError`. */
import { InvalidMessageError, LimitExceededError } from '../wire/errors.ts'
import { FRAME_HEADER_BYTES } from '../wire/frames.ts'
import { decodeRows, encodeRows, ROW_TYPES, rowBytes } from '../wire/rows.ts'
import type { RowType } from '../wire/rows.ts'
import { EXPERT_LIMITS as LIMITS, Priority, Status } from './protocol.ts'
import type { PriorityLevel, StatusName } from './protocol.ts'

/** What a host says first on a stream. */
export interface Hello {
  readonly revision: number
  /** Calls the driver may have unanswered. */
  readonly credits: number
}

/** One layer's work for one host. Picks are sorted by expert, then row; sums follow that order. */
export interface ExpertCall {
  /** SHA-256 digest of the model's manifest, lower-case hex. */
  readonly model: string
  readonly layer: number
  readonly priority: PriorityLevel
  /** How long the driver will wait, counted from receipt. */
  readonly deadlineMs: number
  /** True: one weighted sum per row comes back. False: one unweighted row per pick. */
  readonly combine: boolean
  readonly rowType: RowType
  readonly rows: number
  readonly width: number
  /** [rows, width] */
  readonly x: Float32Array
  /** [picks] */
  readonly pickRow: Uint16Array
  readonly pickExpert: Uint16Array
  readonly pickWeight: Float32Array
}

export type ExpertReply =
  | {
      readonly status: 'ok'
      readonly rowType: RowType
      readonly rows: number
      readonly width: number
      /** [rows, width]: rows of the call when combined, else its picks. */
      readonly data: Float32Array
      /** Time the call waited and computed at the host, in microseconds. */
      readonly queueUs: number
      readonly computeUs: number
    }
  | { readonly status: 'busy'; readonly retryAfterMs: number }
  | { readonly status: 'notHeld'; readonly experts: readonly number[] }
  | { readonly status: Exclude<StatusName, 'ok' | 'busy' | 'notHeld'> | 'unknown' }

const CALL_HEADER_BYTES = 52
const DIGEST_BYTES = 32
const REPLY_HEADER_BYTES = 20
const FLAG_COMBINE = 1

/** Bytes of a call's frame, header included. */
export function callFrameBytes(call: ExpertCall): number {
  return FRAME_HEADER_BYTES + CALL_HEADER_BYTES + call.pickRow.length * 8 + rowBytes(call.rowType, call.rows, call.width)
}

/** Bytes of a successful reply's frame, header included. */
export function replyFrameBytes(rowType: RowType, rows: number, width: number): number {
  return FRAME_HEADER_BYTES + REPLY_HEADER_BYTES + rowBytes(rowType, rows, width)
}

export function encodeHello(hello: Hello): Uint8Array {
  const out = new Uint8Array(8)
  const view = new DataView(out.buffer)
  view.setUint32(0, hello.revision, true)
  view.setUint32(4, hello.credits, true)
  return out
}

export function decodeHello(bytes: Uint8Array): Hello {
  if (bytes.length < 8) throw new InvalidMessageError(`hello of ${bytes.length} bytes, at least 8 are needed`)
  const view = viewOf(bytes)
  const hello = { revision: view.getUint32(0, true), credits: view.getUint32(4, true) }
  if (hello.revision < 1 || hello.credits < 1) throw new InvalidMessageError('hello with revision or credits of 0')
  return hello
}

/** In parts, so that the rows need not be copied into one buffer. */
export function encodeCall(call: ExpertCall): Uint8Array[] {
  checkShape(call.rows, call.width, call.pickRow.length)
  const picks = call.pickRow.length
  const head = new Uint8Array(CALL_HEADER_BYTES + picks * 8)
  const view = viewOf(head)
  view.setUint8(0, call.combine ? FLAG_COMBINE : 0)
  view.setUint8(1, ROW_TYPES.indexOf(call.rowType))
  view.setUint8(2, call.priority)
  view.setUint16(4, call.layer, true)
  view.setUint16(6, call.rows, true)
  view.setUint32(8, call.width, true)
  view.setUint32(12, picks, true)
  view.setUint32(16, call.deadlineMs, true)
  head.set(Buffer.from(call.model, 'hex'), 20)
  let at = CALL_HEADER_BYTES
  for (let i = 0; i < picks; i++, at += 2) view.setUint16(at, call.pickRow[i]!, true)
  for (let i = 0; i < picks; i++, at += 2) view.setUint16(at, call.pickExpert[i]!, true)
  for (let i = 0; i < picks; i++, at += 4) view.setFloat32(at, call.pickWeight[i]!, true)
  return [head, encodeRows(call.rowType, call.x, call.rows, call.width)]
}

export function decodeCall(bytes: Uint8Array): ExpertCall {
  if (bytes.length < CALL_HEADER_BYTES)
    throw new InvalidMessageError(`call of ${bytes.length} bytes, at least ${CALL_HEADER_BYTES} are needed`)
  const view = viewOf(bytes)
  const rowType = rowTypeOf(view.getUint8(1))
  const priority = view.getUint8(2)
  if (priority > Priority.background) throw new InvalidMessageError(`unknown priority ${priority}`)
  const rows = view.getUint16(6, true)
  const width = view.getUint32(8, true)
  const picks = view.getUint32(12, true)
  const deadlineMs = view.getUint32(16, true)
  checkShape(rows, width, picks)
  if (deadlineMs < 1 || deadlineMs > LIMITS.maxDeadlineMs)
    throw new LimitExceededError(`deadline of ${deadlineMs} ms is not within 1-${LIMITS.maxDeadlineMs}`)
  const rowsAt = CALL_HEADER_BYTES + picks * 8
  const want = rowsAt + rowBytes(rowType, rows, width)
  if (bytes.length !== want) throw new InvalidMessageError(`call of ${bytes.length} bytes, its header says ${want}`)
  const pickRow = new Uint16Array(picks)
  const pickExpert = new Uint16Array(picks)
  const pickWeight = new Float32Array(picks)
  let at = CALL_HEADER_BYTES
  for (let i = 0; i < picks; i++, at += 2) pickRow[i] = view.getUint16(at, true)
  for (let i = 0; i < picks; i++, at += 2) pickExpert[i] = view.getUint16(at, true)
  for (let i = 0; i < picks; i++, at += 4) pickWeight[i] = view.getFloat32(at, true)
  for (let i = 0; i < picks; i++) {
    if (pickRow[i]! >= rows) throw new InvalidMessageError(`pick ${i} names row ${pickRow[i]} of ${rows}`)
    if (i > 0 && !follows(pickExpert, pickRow, i)) throw new InvalidMessageError(`pick ${i} is not sorted by expert, then row`)
    if (!Number.isFinite(pickWeight[i])) throw new InvalidMessageError(`pick ${i} has a weight that is not finite`)
  }
  return {
    model: Buffer.from(bytes.buffer, bytes.byteOffset + 20, DIGEST_BYTES).toString('hex'),
    layer: view.getUint16(4, true),
    priority: priority as PriorityLevel,
    deadlineMs,
    combine: (view.getUint8(0) & FLAG_COMBINE) !== 0,
    rowType,
    rows,
    width,
    x: decodeRows(rowType, bytes.subarray(rowsAt), rows, width),
    pickRow,
    pickExpert,
    pickWeight,
  }
}

export function encodeReply(reply: ExpertReply): Uint8Array[] {
  if (reply.status === 'ok') {
    const head = new Uint8Array(REPLY_HEADER_BYTES)
    const view = viewOf(head)
    view.setUint16(0, Status.ok, true)
    view.setUint8(2, ROW_TYPES.indexOf(reply.rowType))
    view.setUint32(4, reply.rows, true)
    view.setUint32(8, reply.width, true)
    view.setUint32(12, clampU32(reply.queueUs), true)
    view.setUint32(16, clampU32(reply.computeUs), true)
    return [head, encodeRows(reply.rowType, reply.data, reply.rows, reply.width)]
  }
  const detail = reply.status === 'notHeld' ? reply.experts.length : 0
  const out = new Uint8Array(8 + detail * 2)
  const view = viewOf(out)
  view.setUint16(0, reply.status === 'unknown' ? Status.failed : Status[reply.status], true)
  if (reply.status === 'busy') view.setUint32(4, clampU32(reply.retryAfterMs), true)
  if (reply.status === 'notHeld') reply.experts.forEach((expert, i) => view.setUint16(8 + i * 2, expert, true))
  return [out]
}

export function decodeReply(bytes: Uint8Array): ExpertReply {
  if (bytes.length < 8) throw new InvalidMessageError(`reply of ${bytes.length} bytes, at least 8 are needed`)
  const view = viewOf(bytes)
  const code = view.getUint16(0, true)
  switch (code) {
    case Status.ok: {
      if (bytes.length < REPLY_HEADER_BYTES) throw new InvalidMessageError('reply ends within its header')
      const rowType = rowTypeOf(view.getUint8(2))
      const rows = view.getUint32(4, true)
      const width = view.getUint32(8, true)
      checkShape(Math.min(rows, LIMITS.maxRows), width, rows)
      const data = decodeRows(rowType, bytes.subarray(REPLY_HEADER_BYTES), rows, width)
      return { status: 'ok', rowType, rows, width, data, queueUs: view.getUint32(12, true), computeUs: view.getUint32(16, true) }
    }
    case Status.busy:
      return { status: 'busy', retryAfterMs: view.getUint32(4, true) }
    case Status.notHeld: {
      const count = Math.floor((bytes.length - 8) / 2)
      if (count > LIMITS.maxPicks) throw new LimitExceededError(`${count} experts not held, of at most ${LIMITS.maxPicks} picks`)
      return { status: 'notHeld', experts: Array.from({ length: count }, (_, i) => view.getUint16(8 + i * 2, true)) }
    }
    case Status.cancelled:
      return { status: 'cancelled' }
    case Status.deadline:
      return { status: 'deadline' }
    case Status.malformed:
      return { status: 'malformed' }
    case Status.tooLarge:
      return { status: 'tooLarge' }
    case Status.failed:
      return { status: 'failed' }
    default:
      return { status: 'unknown' }
  }
}

function checkShape(rows: number, width: number, picks: number): void {
  if (rows < 1 || rows > LIMITS.maxRows) throw new LimitExceededError(`${rows} rows are not within 1-${LIMITS.maxRows}`)
  if (width < 1 || width > LIMITS.maxWidth) throw new LimitExceededError(`rows of ${width} numbers are not within 1-${LIMITS.maxWidth}`)
  if (picks < 1 || picks > LIMITS.maxPicks) throw new LimitExceededError(`${picks} picks are not within 1-${LIMITS.maxPicks}`)
}

function follows(experts: Uint16Array, rows: Uint16Array, i: number): boolean {
  return experts[i]! > experts[i - 1]! || (experts[i] === experts[i - 1] && rows[i]! > rows[i - 1]!)
}

function rowTypeOf(code: number): RowType {
  const type = ROW_TYPES[code]
  if (type === undefined) throw new InvalidMessageError(`unknown row type ${code}`)
  return type
}

function clampU32(value: number): number {
  return Math.max(0, Math.min(0xffff_ffff, Math.round(value)))
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
