/** A host that states to hold what it does not is found out by its refusals, left alone, and the swarm reads of it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startRogueHost } from '../helpers/rogue-host.ts'
import { ask, createSwarm, untilReady } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const FIELDS = Object.freeze({ wire: 'f32', combine: 'driver' } as const)
const QUESTIONS = ['a dog', 'the sea', '1, 2, 3', 'rain']
/** The first refusals may be late news, see `Holders`; statistics travel every 5 s. */
const TIMEOUT_MS = 60_000

test('whoever claims what it does not serve is demoted, and the evidence is in the ledger', { timeout: 120_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  await swarm.start({ host: 'all' })
  await untilReady(driver, 1)
  const rogue = await startRogueHost(t, {
    swarm: swarm.name,
    connectTo: driver.addresses,
    model: swarm.model,
    // One expert at a time, so that it takes many refusals to know them all.
    misdeed: ({ reply, call }) => reply({ status: 'notHeld', experts: [call.pickExpert[0]!] }),
  })
  const statusOf = () => driver.status().peers.find(({ peer }) => peer === rogue.peer)
  await until(() => statusOf()?.rttMs != null, { what: 'the driver has measured the rogue' })
  let asked = 0
  await until(
    async () => {
      const content = QUESTIONS[asked++ % QUESTIONS.length]!
      const answer = await ask(driver, { messages: [{ role: 'user', content }] }, { ...FIELDS, maxTokens: 1 })
      assert.equal(answer.report.exact, true)
      return statusOf()!.backoffMs > 0
    },
    { what: 'the rogue is backed off', timeoutMs: TIMEOUT_MS, intervalMs: 2_000 },
  )
  const evidence = await until(
    () => {
      const notHeld = rogue.ledger.view().authors.get(driver.peer)?.observed?.get(rogue.peer)?.notHeld ?? 0
      return notHeld >= 3 && notHeld
    },
    { what: 'the evidence reaches the rogue itself', timeoutMs: TIMEOUT_MS },
  )
  t.diagnostic(`${asked} questions, ${rogue.calls} calls refused, ${evidence} of them stated`)
})
