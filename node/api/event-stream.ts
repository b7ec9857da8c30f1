import type { ErrorBody } from './errors.ts'

export interface EventStreamInit {
  /** Already moved past `first`. */
  readonly chunks: AsyncGenerator<readonly object[], void>
  readonly first: readonly object[]
  readonly keepAliveMs: number
  readonly stallMs: number
  /** The body to send for an error in mid-stream. */
  describe(error: unknown): ErrorBody
  /** The client takes nothing any more: its connection has to be cut. */
  stalled(): void
  /** The client left before the end. */
  cancelled(): void
  /** Nothing will be sent any more; called once, last. */
  ended(): void
}

/**
 * A stream of server-sent events, made only as fast as the client takes them. Ends with `data: [DONE]`,
 * or after an error with an event that holds it. Comments keep the connection alive while there is nothing to tell.
 */
export function eventStream(init: EventStreamInit): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  const encode = (objects: readonly object[]): Uint8Array =>
    encoder.encode(objects.map((one) => `data: ${JSON.stringify(one)}\n\n`).join(''))
  let timer: NodeJS.Timeout | undefined
  let isEnded = false
  const end = (): void => {
    if (isEnded) return
    isEnded = true
    clearInterval(timer)
    init.ended()
  }
  return new ReadableStream<Uint8Array>({
    start(controller) {
      let stalledMs = 0
      timer = setInterval(() => {
        if ((controller.desiredSize ?? 0) > 0) {
          stalledMs = 0
          controller.enqueue(encoder.encode(': keep-alive\n\n'))
        } else if ((stalledMs += init.keepAliveMs) >= init.stallMs) {
          init.stalled()
        }
      }, init.keepAliveMs)
      if (init.first.length > 0) controller.enqueue(encode(init.first))
    },
    async pull(controller) {
      try {
        for (;;) {
          const { done, value } = await init.chunks.next()
          if (isEnded) return
          if (done === true) {
            controller.enqueue(encoder.encode('data: [DONE]\n\n'))
            break
          }
          if (value.length === 0) continue
          controller.enqueue(encode(value))
          return
        }
      } catch (error) {
        if (isEnded) return
        controller.enqueue(encode([init.describe(error)]))
      }
      end()
      controller.close()
    },
    async cancel() {
      init.cancelled()
      end()
      await init.chunks.return()
    },
  })
}
