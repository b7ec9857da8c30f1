import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as errors from '../../../protocols/wire/errors.ts'
import * as nodeErrors from '../../../node/errors.ts'

test('every error class is told apart by its own name', () => {
  const made = [
    new errors.InvalidMessageError('m'),
    new errors.LimitExceededError('m'),
    new errors.DeadlineError('m'),
    new errors.PeerLostError('m'),
    new errors.PeerRefusedError('busy', 'm', { retryAfterMs: 20 }),
    new nodeErrors.ConfigError('m'),
    new nodeErrors.ModelError('m'),
    new nodeErrors.ModelMissingError('m'),
    new nodeErrors.InvalidRequestError('m'),
    new nodeErrors.NoRouteError(1, 2, 'm'),
    new nodeErrors.BusyError('m'),
  ]
  for (const error of made) {
    assert.equal(error.name, error.constructor.name)
    assert.ok(error instanceof errors.MeshError)
    assert.deepEqual(
      made.filter((other) => errors.isMeshError(other, error.name)),
      [error],
    )
  }
})

test('a name alone makes no mesh error of a thing that is no error', () => {
  assert.equal(errors.isMeshError({ name: 'DeadlineError' }, 'DeadlineError'), false)
  assert.equal(errors.isMeshError(undefined, 'DeadlineError'), false)
})

test('a refusal carries its status, a missing route its layer and expert, a cause its cause', () => {
  const { status, retryAfterMs } = new errors.PeerRefusedError('busy', 'm', { retryAfterMs: 20 })
  assert.deepEqual({ status, retryAfterMs }, { status: 'busy', retryAfterMs: 20 })
  assert.equal(new errors.PeerRefusedError('failed', 'm').retryAfterMs, 0)
  const { layer, expert, message } = new nodeErrors.NoRouteError(3, 17, 'all hosts failed')
  assert.deepEqual({ layer, expert }, { layer: 3, expert: 17 })
  assert.equal(message, 'no live host serves expert 17 of layer 3: all hosts failed')
  const cause = new Error('reset')
  assert.equal(new errors.PeerLostError('m', { cause }).cause, cause)
})
