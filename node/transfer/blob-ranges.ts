import type { BlobClient } from '../../protocols/blob/index.ts'
import { BLOB_LIMITS } from '../../protocols/blob/index.ts'
import { isMeshError, PeerLostError } from '../../protocols/wire/errors.ts'
import type { PeerRefusedError } from '../../protocols/wire/errors.ts'
import { DelayWindow } from './delay-window.ts'
import type { TransferPace } from './transfer-pace.ts'

export interface BlobRangesInit {
  /** SHA-256 digest, hex. */
  readonly digest: string
  readonly blobBytes: number
  /** Where to begin. */
  readonly from: number
  readonly clients: readonly BlobClient[]
  readonly pace: Pick<TransferPace, 'turn'>
  /** Hears how long a range took a peer to send: from the request, or from the range before it, whichever came later. */
  readonly onRange?: (peer: string, bytes: number, ms: number) => void
  readonly signal: AbortSignal
}

const RANGE_BYTES = BLOB_LIMITS.maxRangeBytes
/** How far ahead of the first missing range others may be: bounds memory. */
const AHEAD_BYTES = 8 * 1024 * 1024
/** The range that all others wait for is also asked of another peer after so long. */
const HEDGE_AFTER_MS = 2_000

interface Source {
  readonly client: BlobClient
  readonly window: DelayWindow
  underWay: number
  pausedUntil: number
  answeredAt: number
  isLost: boolean
}

/**
 * The bytes of a blob from an offset on, in order, taken from several peers at once: each gets as many ranges as its {@link DelayWindow}
 * says, and what one fails to send another is asked for. Throws `PeerLostError` when no peer is left, or `signal.reason`.
 */
export async function* blobRanges(init: BlobRangesInit): AsyncGenerator<Uint8Array> {
  const { digest, blobBytes, clients, pace, signal } = init
  const sources = clients.map((client): Source => ({
    client,
    window: new DelayWindow(),
    underWay: 0,
    pausedUntil: 0,
    answeredAt: 0,
    isLost: false,
  }))
  const arrived = new Map<number, Uint8Array>()
  const again: number[] = []
  let head = init.from
  let next = init.from
  let wake = Promise.withResolvers<void>()
  let headSince = performance.now()
  let isHedged = false
  let lastError = new Error('nobody has it')

  const ask = (source: Source, offset: number): void => {
    source.underWay++
    const startedAt = performance.now()
    const length = Math.min(RANGE_BYTES, blobBytes - offset)
    source.client
      .read({ digest, offset, length })
      .then((range) => {
        if (range.blobBytes !== blobBytes) throw new PeerLostError(`${source.client.peer} has another size of blob ${digest}`)
        const now = performance.now()
        source.window.answered(now - startedAt)
        init.onRange?.(source.client.peer, range.bytes.length, now - Math.max(startedAt, source.answeredAt))
        source.answeredAt = now
        if (offset >= head) arrived.set(offset, range.bytes)
      })
      .catch((error: Error) => {
        lastError = error
        if (offset >= head && !arrived.has(offset)) again.push(offset)
        const isBusy = isMeshError(error, 'PeerRefusedError') && (error as PeerRefusedError).status === 'busy'
        if (isBusy) source.pausedUntil = performance.now() + (error as PeerRefusedError).retryAfterMs
        else source.isLost = true
      })
      .finally(() => {
        source.underWay--
        wake.resolve()
      })
  }

  const free = (): Source | undefined => {
    const now = performance.now()
    return sources
      .filter(({ client, window, underWay, pausedUntil, isLost }) => {
        return !isLost && pausedUntil <= now && underWay < Math.min(window.size, underWay + client.room)
      })
      .sort((a, b) => a.underWay / a.window.size - b.underWay / b.window.size)[0]
  }

  const fill = async (): Promise<void> => {
    for (let source = free(); source !== undefined; source = free()) {
      const offset = again.pop() ?? (next < blobBytes && next < head + AHEAD_BYTES ? next : undefined)
      if (offset === undefined) break
      if (offset === next) next += RANGE_BYTES
      await pace.turn(RANGE_BYTES)
      if (signal.aborted) return
      ask(source, offset)
    }
    const other = !isHedged && performance.now() - headSince > HEDGE_AFTER_MS ? free() : undefined
    if (other === undefined || head >= next || arrived.has(head)) return
    isHedged = true
    ask(other, head)
  }

  const onAbort = (): void => wake.resolve()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    while (head < blobBytes) {
      signal.throwIfAborted()
      wake = Promise.withResolvers<void>()
      await fill()
      const bytes = arrived.get(head)
      if (bytes !== undefined) {
        arrived.delete(head)
        head += bytes.length
        headSince = performance.now()
        isHedged = false
        yield bytes
        continue
      }
      if (sources.every(({ isLost, underWay }) => isLost && underWay === 0)) {
        throw new PeerLostError(`no peer is left that sends blob ${digest}: ${lastError.message}`, { cause: lastError })
      }
      const timer = setTimeout(() => wake.resolve(), HEDGE_AFTER_MS)
      await wake.promise
      clearTimeout(timer)
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
