import { DeadlineError } from '../../protocols/wire/errors.ts'
import { CLIENT_CLOSED_STATUS, HttpError } from './errors.ts'

/** The life of one request's queries. */
export interface Scope {
  /** Aborts with `HttpError` (client left, node stops) or `DeadlineError`. */
  readonly signal: AbortSignal
  /** Ends the queries because nobody reads their answer any more. */
  leave(): void
  /** Takes away the listeners and the timer; idempotent. */
  close(): void
}

export interface ScopeInit {
  /** Aborts when the client's connection breaks. */
  readonly client: AbortSignal
  /** Aborts when the API stops. */
  readonly stopping: AbortSignal
  readonly timeoutMs: number
}

/** Joins all reasons for which a request's queries end early. */
export function openScope(init: ScopeInit): Scope {
  const controller = new AbortController()
  const closed = new AbortController()
  const leave = (): void => controller.abort(new HttpError(CLIENT_CLOSED_STATUS, 'client_closed', 'The client closed its connection.'))
  const stop = (): void => controller.abort(stoppingError())
  const expire = (): void => {
    controller.abort(new DeadlineError(`The answer took longer than ${init.timeoutMs / 1000} s; ask for fewer tokens or choices.`))
  }
  const timer = setTimeout(expire, init.timeoutMs)
  if (init.client.aborted) leave()
  if (init.stopping.aborted) stop()
  init.client.addEventListener('abort', leave, { once: true, signal: closed.signal })
  init.stopping.addEventListener('abort', stop, { once: true, signal: closed.signal })
  return {
    signal: controller.signal,
    leave,
    close() {
      clearTimeout(timer)
      closed.abort()
    },
  }
}

/** What a caller is told while the node stops. */
export function stoppingError(): HttpError {
  return new HttpError(503, 'stopping', 'The node is stopping; try again when it is back, or ask another node.')
}
