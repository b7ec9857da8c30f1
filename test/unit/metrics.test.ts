import assert from 'node:assert/strict'
import perfHooks from 'node:perf_hooks'
import { test } from 'node:test'
import { Registry } from 'prom-client'
import { registerNodeMetrics } from '../../node/metrics.ts'

test('no timer wakes an idle node to sample the delay of its event loop, and nothing is told of samples that are not taken', (t) => {
  const monitor = t.mock.method(perfHooks, 'monitorEventLoopDelay')
  const registry = new Registry()
  registerNodeMetrics(registry, {} as never)
  const resolutions = monitor.mock.calls.map(({ arguments: [options] }) => options?.resolution ?? 10)
  assert.equal(resolutions.length, 1)
  assert.ok(resolutions[0]! > 24 * 3_600_000, `every ${resolutions[0]} ms`)
  const names = registry.getMetricsAsArray().map(({ name }) => name)
  assert.deepEqual(
    names.filter((name) => name.includes('eventloop')),
    ['skein_nodejs_eventloop_lag_seconds'],
  )
})
