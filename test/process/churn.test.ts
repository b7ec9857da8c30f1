/**
 * Real daemons that place by themselves: hosts are killed and join while answers are streamed without pause, and none fails. The five
 * minutes of the issue are `npm run test:churn`; this is the same with three events.
 */
import assert from 'node:assert/strict'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomInt } from 'node:crypto'
import { test } from 'node:test'
import { runChurn } from '../../scripts/churn-run.ts'

const EVENTS = 3
const EVERY_MS = 5_000

test(
  'a host is killed, one joins, one is killed: no answer fails, and every expert has two hosts again',
  { timeout: 240_000 },
  async (t) => {
    const seed = randomInt(2 ** 31)
    t.diagnostic(`seed ${seed}`)
    const result = await runChurn({
      dir: await mkdtemp(join(tmpdir(), 'skein-churn-')),
      hosts: 4,
      budget: 0.75,
      everyMs: EVERY_MS,
      events: EVENTS,
      askers: 1,
      seed,
      log: (line) => t.diagnostic(line),
    })
    assert.deepEqual(result.failures, [])
    assert.ok(result.answers > 0 && result.tokens > 0)
    assert.ok(result.fewest >= 1, 'an expert was without a host')
    assert.deepEqual([result.lost, result.joined], [2, 1])
    t.diagnostic(`${result.answers} answers, ${result.tokens} tokens, ${result.gapsMs.length} times below two hosts`)
  },
)
