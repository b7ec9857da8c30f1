/**
 * Frames over one long-lived stream: `[u32 length][u32 id][u8 kind][payload]`, little-endian, length counting what follows it.
 * See README.md beside this file.
 */
import { InvalidMessageError, LimitExceededError } from './errors.ts'

/** Bytes before the payload: length, id, kind. */
export const FRAME_HEADER_BYTES = 9
const COUNTED_HEADER_BYTES = FRAME_HEADER_BYTES - 4

/** Bytes put into one `send`: one yamux frame and one TLS record's worth; larger was no faster (64 KiB yamux maximum). */
const CORK_BYTES = 64 * 1024 - 64

export interface Frame {
  readonly id: number
  readonly kind: number
  /** A view that may share memory with the received chunk: copy it if it is kept. */
  readonly payload: Uint8Array
}

/** Cuts a byte stream into frames; a frame's length is checked before its memory is taken. */
export class FrameDecoder {
  readonly #maxFrameBytes: number
  readonly #onFrame: (frame: Frame) => void
  readonly #header = new Uint8Array(FRAME_HEADER_BYTES)
  #headerBytes = 0
  #body: Uint8Array | null = null
  #bodyBytes = 0
  #id = 0
  #kind = 0

  constructor(init: { maxFrameBytes: number; onFrame: (frame: Frame) => void }) {
    this.#maxFrameBytes = init.maxFrameBytes
    this.#onFrame = init.onFrame
  }

  /** True while a frame has begun and not ended. */
  get isPartial(): boolean {
    return this.#headerBytes > 0 || this.#body !== null
  }

  /** Throws `LimitExceededError` or `InvalidMessageError` for a frame that must not be read; the stream is then useless. */
  push(chunk: Uint8Array): void {
    let at = 0
    while (at < chunk.length) {
      if (this.#body === null) {
        const whole = this.#headerBytes === 0 && chunk.length - at >= FRAME_HEADER_BYTES
        if (whole) {
          const length = this.#readHeader(chunk, at)
          at += FRAME_HEADER_BYTES
          if (chunk.length - at >= length) {
            this.#onFrame({ id: this.#id, kind: this.#kind, payload: chunk.subarray(at, at + length) })
            at += length
            continue
          }
          this.#body = new Uint8Array(length)
          this.#bodyBytes = 0
        } else {
          const n = Math.min(FRAME_HEADER_BYTES - this.#headerBytes, chunk.length - at)
          this.#header.set(chunk.subarray(at, at + n), this.#headerBytes)
          this.#headerBytes += n
          at += n
          if (this.#headerBytes < FRAME_HEADER_BYTES) return
          this.#headerBytes = 0
          this.#body = new Uint8Array(this.#readHeader(this.#header, 0))
          this.#bodyBytes = 0
        }
      }
      const n = Math.min(this.#body.length - this.#bodyBytes, chunk.length - at)
      this.#body.set(chunk.subarray(at, at + n), this.#bodyBytes)
      this.#bodyBytes += n
      at += n
      if (this.#bodyBytes === this.#body.length) {
        const payload = this.#body
        this.#body = null
        this.#onFrame({ id: this.#id, kind: this.#kind, payload })
      }
    }
  }

  #readHeader(bytes: Uint8Array, at: number): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset + at, FRAME_HEADER_BYTES)
    const length = view.getUint32(0, true)
    if (length < COUNTED_HEADER_BYTES) throw new InvalidMessageError(`frame length ${length} is shorter than its header`)
    if (length > this.#maxFrameBytes) throw new LimitExceededError(`frame of ${length} bytes exceeds the limit of ${this.#maxFrameBytes}`)
    this.#id = view.getUint32(4, true)
    this.#kind = view.getUint8(8)
    return length - COUNTED_HEADER_BYTES
  }
}

/** The few members of a libp2p v3 stream that frames need. */
export interface FrameSink {
  /** False when the caller should wait for {@link onDrain}. */
  send(data: Uint8Array): boolean
  onDrain(): Promise<void>
  /** Bytes taken by `send` and not yet passed on. */
  readonly writeBufferLength: number
}

/** Bytes that may wait for a peer that does not read: four of the largest frames of any protocol. */
export const MAX_UNSENT_BYTES = 64 * 1024 * 1024

/**
 * Writes frames, all of one turn of the event loop in as few sends as possible (corking is worth 3-4.5x at 128 B).
 */
export class FrameWriter {
  readonly #sink: FrameSink
  readonly #onError: (error: Error) => void
  #queue: Uint8Array[] = []
  #queuedBytes = 0
  #failed = false
  #scheduled = false
  #flushing = false
  /** Bytes handed to the stream so far. */
  bytesSent = 0

  /** `onError` hears once why nothing more can be written: `LimitExceededError` for a peer that does not read, else the stream's error. */
  constructor(sink: FrameSink, onError: (error: Error) => void) {
    this.#sink = sink
    this.#onError = onError
  }

  /** Never throws: a frame that can't be written is dropped, and `onError` hears why. */
  write(id: number, kind: number, ...parts: Uint8Array[]): void {
    if (this.#failed) return
    const header = new Uint8Array(FRAME_HEADER_BYTES)
    const view = new DataView(header.buffer)
    let length = COUNTED_HEADER_BYTES
    for (const part of parts) length += part.length
    view.setUint32(0, length, true)
    view.setUint32(4, id, true)
    view.setUint8(8, kind)
    this.#queue.push(header, ...parts)
    this.#queuedBytes += 4 + length
    // The stream's own buffer counts: libp2p's `onDrain` does not hold back a writer that has once been drained.
    if (this.#queuedBytes + this.#sink.writeBufferLength > MAX_UNSENT_BYTES) {
      this.#fail(new LimitExceededError(`the peer leaves more than ${MAX_UNSENT_BYTES} bytes unread`))
      return
    }
    if (this.#scheduled || this.#flushing) return
    this.#scheduled = true
    // After the promise reactions of this turn, so that the answers to one received chunk leave together; before the next I/O.
    process.nextTick(() => {
      this.#scheduled = false
      this.#flush().catch((error: Error) => this.#fail(error))
    })
  }

  async #flush(): Promise<void> {
    this.#flushing = true
    try {
      while (this.#queue.length > 0) {
        const queue = this.#queue
        this.#queue = []
        let from = 0
        while (from < queue.length) {
          let bytes = queue[from]!.length
          let to = from + 1
          while (to < queue.length && bytes + queue[to]!.length <= CORK_BYTES) bytes += queue[to++]!.length
          const batch = to === from + 1 ? queue[from]! : Buffer.concat(queue.slice(from, to), bytes)
          from = to
          this.#queuedBytes -= batch.length
          this.bytesSent += batch.length
          if (!this.#sink.send(batch)) await this.#sink.onDrain()
        }
      }
    } finally {
      this.#flushing = false
    }
  }

  #fail(error: Error): void {
    if (this.#failed) return
    this.#failed = true
    this.#queue = []
    this.#onError(error)
  }
}
