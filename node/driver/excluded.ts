import { PeerRefusedError } from '../../protocols/wire/errors.ts'
import type { CancelScope } from './cancel-scope.ts'

/** How long the same rows may wait for hosts that are busy when nobody else serves them. */
const MAX_BUSY_WAIT_MS = 5_000

/** Hosts not to ask for some rows, because they failed or refused before. */
export interface Excluded {
  readonly peers: readonly string[]
  /** Those of them that were only busy, and until when they asked to be left alone. */
  readonly busyUntil: ReadonlyMap<string, number>
  /** When the first of them was; survives their pardon. */
  readonly busySince: number | null
}

export const NOBODY: Excluded = { peers: [], busyUntil: new Map(), busySince: null }

/** Whether all that could serve some rows were only busy. */
export function wereBusy({ peers, busyUntil }: Excluded): boolean {
  return peers.length > 0 && busyUntil.size === peers.length
}

/** What to say of an expert that none of them and nobody else served. */
export function whyNobody(excluded: Excluded): string {
  const { peers } = excluded
  if (peers.length === 0) return 'nobody announces it'
  const what = wereBusy(excluded) ? 'busy' : 'failed'
  if (peers.length > 1) return what === 'busy' ? `${peers.length} hosts were busy` : `${peers.length} hosts failed`
  return what === 'busy' ? 'its only host was busy' : 'its only host failed'
}

/** Those, and one more; `busyForMs` is null for one that failed. */
export function exclude({ peers, busyUntil, busySince }: Excluded, peer: string, busyForMs: number | null): Excluded {
  if (busyForMs === null) return { peers: [...peers, peer], busyUntil, busySince }
  const now = performance.now()
  return { peers: [...peers, peer], busyUntil: new Map([...busyUntil, [peer, now + busyForMs]]), busySince: busySince ?? now }
}

/** Waits until the first of the busy hosts may be asked again; the exclusions without the busy ones. null when it is not worth waiting. */
export async function afterBusy(scope: CancelScope, { peers, busyUntil, busySince }: Excluded): Promise<Excluded | null> {
  if (busySince === null || busyUntil.size === 0) return null
  const now = performance.now()
  const until = Math.max(now, Math.min(...busyUntil.values()))
  if (until - busySince > MAX_BUSY_WAIT_MS) return null
  await new Promise<void>((resolve, reject) => {
    const waiting = { cancel: (reason: Error): void => end(() => reject(reason)) }
    const timer = setTimeout(() => end(resolve), until - now)
    const end = (settle: () => void): void => {
      clearTimeout(timer)
      scope.delete(waiting)
      settle()
    }
    scope.add(waiting)
  })
  return { peers: peers.filter((peer) => !busyUntil.has(peer)), busyUntil: new Map(), busySince }
}

/** For how long the host asks to be left alone; null when it failed otherwise. */
export function busyMs(error: Error): number | null {
  return error instanceof PeerRefusedError && error.status === 'busy' ? error.retryAfterMs : null
}
