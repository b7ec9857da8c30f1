/** Runs `task` every `intervalMs` until `signal` fires, never overlapping; `onError` hears of a run that failed, and the next follows all the same. */
export function repeat(
  task: () => Promise<void> | void,
  init: { intervalMs: number; signal: AbortSignal; onError: (error: Error) => void },
): void {
  const { intervalMs, signal, onError } = init
  const schedule = (): void => {
    if (signal.aborted) return
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      Promise.resolve().then(task).catch(onError).finally(schedule)
    }, intervalMs)
    const onAbort = (): void => clearTimeout(timer)
    signal.addEventListener('abort', onAbort, { once: true })
  }
  schedule()
}
