/** A driver that keeps the experts its own questions use most. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ask, createSwarm, untilReady } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const PROMPT = { messages: [{ role: 'user', content: 'Tell me a story about a dog.' }] }
const FIELDS = Object.freeze({ wire: 'f32', combine: 'driver', maxTokens: 60 } as const)

test(
  'a driver with spare memory serves its own questions from it, with the same answer, and announces nothing',
  { timeout: 90_000 },
  async (t) => {
    const swarm = await createSwarm(t)
    const driver = await swarm.start({ host: 'none', cache: '1GB', wire: 'f32' })
    const host = await swarm.start({ host: 'all' })
    await untilReady(driver, 1)
    const first = await ask(driver, PROMPT, FIELDS)
    assert.deepEqual([first.report.expertCache.hits, first.report.calls.local], [0, 0])
    assert.ok(first.report.expertCache.picks > 0)

    const later = await until(
      async () => {
        const answer = await ask(driver, PROMPT, FIELDS)
        assert.deepEqual(answer.tokens, first.tokens)
        return answer.report.expertCache.hits > answer.report.expertCache.picks / 2 ? answer : null
      },
      { what: 'more than half of the rows come from the cache', timeoutMs: 60_000, intervalMs: 200 },
    )
    assert.ok(later.report.calls.local > 0)
    const metrics = await (await fetch(`${driver.url}/metrics`)).text()
    assert.ok(Number(/^skein_expert_cache_hits_total (\d+)/m.exec(metrics)![1]) > 0)
    assert.ok(Number(/^skein_expert_cache_bytes (\d+)/m.exec(metrics)![1]) > 0)
    assert.deepEqual(driver.status().holdings[0]!.layers, [])
    assert.equal(host.status().peers.find(({ peer }) => peer === driver.peer)?.experts, 0)
  },
)
