/** Runs `task` over the items, `lanes` at a time, and yields each result as it comes. A rejection ends it; leaving early begins no more. */
export async function* inLanes<T, R>(items: Iterable<T>, lanes: number, task: (item: T) => Promise<R>): AsyncGenerator<R> {
  const waiting = items[Symbol.iterator]()
  const running = new Map<number, Promise<{ readonly lane: number; readonly result: R }>>()
  const begin = (lane: number): void => {
    const next = waiting.next()
    if (next.done !== true)
      running.set(
        lane,
        task(next.value).then((result) => ({ lane, result })),
      )
  }
  for (let lane = 0; lane < lanes; lane++) begin(lane)
  while (running.size > 0) {
    const { lane, result } = await Promise.race(running.values())
    running.delete(lane)
    yield result
    begin(lane)
  }
}
