import { isMeshError, MeshError } from '../../protocols/wire/errors.ts'
import type { InvalidRequestError } from '../errors.ts'
import { LIMITS } from './limits.ts'

/** OpenAI's error body. */
export interface ErrorBody {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string | null }
}

/** An error as an HTTP client sees it. */
export interface Failure {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: ErrorBody
  /** False for our own faults: the body tells nothing, and the error belongs in the log. */
  readonly expected: boolean
}

/** A failure that exists only at the HTTP edge: routes, headers, keys, a client that left, a node that stops. */
export class HttpError extends MeshError {
  override name = 'HttpError'
  readonly status: number
  readonly code: string
  readonly headers: Readonly<Record<string, string>>

  constructor(status: number, code: string, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message)
    this.status = status
    this.code = code
    this.headers = headers
  }
}

/** nginx's status for a client that closed its connection; seen in metrics only. */
export const CLIENT_CLOSED_STATUS = 499

/** The one mapping from errors to HTTP status and OpenAI error body. */
export function toFailure(error: unknown): Failure {
  if (error instanceof HttpError) return failure(error.status, error.message, error.code, null, error.headers)
  if (isMeshError(error, 'InvalidRequestError')) {
    const { message, code, param } = error as InvalidRequestError
    return failure(400, message, code, param)
  }
  if (isMeshError(error, 'ModelMissingError')) return failure(404, (error as Error).message, 'model_not_found', 'model')
  if (isMeshError(error, 'BusyError')) {
    return failure(429, (error as Error).message, 'busy', null, { 'retry-after': String(LIMITS.retryAfterSeconds) })
  }
  if (isMeshError(error, 'NoRouteError')) return failure(503, (error as Error).message, 'no_route')
  if (isMeshError(error, 'DeadlineError')) return failure(504, (error as Error).message, 'deadline_exceeded')
  return {
    ...failure(500, 'The node failed to answer because of an internal error; its log tells more.', 'internal_error'),
    expected: false,
  }
}

function failure(
  status: number,
  message: string,
  code: string | null,
  param: string | null = null,
  headers: Readonly<Record<string, string>> = {},
): Failure {
  const type = status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error'
  return { status, headers, body: { error: { message, type, param, code } }, expected: true }
}
