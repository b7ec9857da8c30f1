/** Ctrl-C reaches every process of the terminal's group, and npm and other parents pass it on as well: that is one request, not two. */
const SAME_REQUEST_MS = 1_000
const EXIT_INTERRUPTED = 130

/**
 * Calls `onStop` at the first SIGINT or SIGTERM, or when the parent that holds the other end of this process' IPC channel is gone; a later
 * signal ends the process on the spot, unless `hurry` says that it could shorten the stop.
 */
export function onStopSignal(onStop: () => void, hurry: () => boolean = () => false): void {
  let askedAt: number | null = null
  const onSignal = (): void => {
    const now = performance.now()
    if (askedAt !== null && now - askedAt <= SAME_REQUEST_MS) return
    const isFirst = askedAt === null
    askedAt = now
    if (isFirst) onStop()
    else if (!hurry()) process.exit(EXIT_INTERRUPTED)
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  process.once('disconnect', onSignal)
}
