/** A host that is told to stop while nobody else serves what it does: it goes once another does, and at once when no other could. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { DaemonProcess } from '../../scripts/daemon-process.ts'
import { daemonSwarm, statusOf, untilServing } from '../helpers/daemon-swarm.ts'
import type { DaemonSwarm } from '../helpers/daemon-swarm.ts'
import { until } from '../helpers/until.ts'

const HAND_OVER_MS = 30_000

/** A host with nothing on its disk that takes up what the swarm needs. */
async function startTaker(swarm: DaemonSwarm, name: string, bytes: number): Promise<DaemonProcess> {
  const budget = ['--host', 'auto', '--ram', String(bytes), '--disk', String(bytes)]
  return await swarm.start(name, ['--model', 'none', '--store', join(swarm.dir, name, 'blobs'), ...budget])
}

/** Waits until the host has heard of the other. */
async function untilKnown(host: DaemonProcess, other: DaemonProcess): Promise<void> {
  const hears = async (): Promise<boolean> =>
    (await statusOf(host.url)).peers.some(({ peer, ledgerAgeSeconds }) => peer === other.peer && ledgerAgeSeconds !== null)
  await until(hears, { what: `${host.name} hears of ${other.name}`, timeoutMs: 20_000 })
}

describe('hand-over', { concurrency: false }, () => {
  const swarm = daemonSwarm(async (daemons) => {
    await daemons.start('gateway', ['--host', 'none'])
  })
  const modelBytes = (): number => swarm().model.manifest.blobs.reduce((sum, blob) => sum + (blob.role === 'experts' ? blob.bytes : 0), 0)

  const ask = async (): Promise<number> => {
    const body = JSON.stringify({ model: 'ember', prompt: 'Once upon a time', max_tokens: 16 })
    const response = await fetch(`${swarm().get('gateway').url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    })
    assert.equal(response.status, 200, await response.text())
    return performance.now()
  }

  test('nobody could take it up: it goes at once', { timeout: 60_000 }, async () => {
    const host = await swarm().start('only', ['--host', 'all'])
    await untilServing(swarm().get('gateway').url, 1, 1)
    const askedAt = performance.now()
    await host.stop()
    assert.equal(await host.exited, 0)
    assert.ok(performance.now() - askedAt < HAND_OVER_MS / 2, 'it waited for nobody')
    assert.doesNotMatch(host.output(), /handover\.begun/)
  })

  test('another has room: it is served there before the last host goes, and no answer fails', { timeout: 120_000 }, async (t) => {
    const { url } = swarm().get('gateway')
    const host = await swarm().start('last', ['--host', 'all', '--handover', '60'])
    await untilServing(url, 1, 1)
    const taker = await startTaker(swarm(), 'taker', modelBytes())
    await untilKnown(host, taker)
    const gone = host.stop().then(() => performance.now())
    let answers = 0
    let isGone = false
    void gone.then(() => (isGone = true))
    while (!isGone) {
      await ask()
      answers++
    }
    const { coverage } = (await statusOf(url)).models[0]!
    assert.deepEqual([await host.exited, coverage.complete, coverage.minReplicas], [0, true, 1])
    assert.match(host.output(), /handover\.ended alone=0/)
    await ask()
    t.diagnostic(`${answers} answers while it left: ${/handover\.ended.*/.exec(host.output())?.[0]}`)
    await taker.kill()
  })

  test('a second signal ends the wait', { timeout: 60_000 }, async (t) => {
    const host = await swarm().start('hurried', ['--host', 'all', '--handover', '3600'])
    await untilServing(swarm().get('gateway').url, 1, 1)
    const taker = await startTaker(swarm(), 'stuck', modelBytes())
    t.after(() => taker.kill())
    await untilKnown(host, taker)
    // It looks as if it could take the shards up, and never does.
    process.kill(taker.pid, 'SIGSTOP')
    process.kill(host.pid, 'SIGTERM')
    await until(() => /handover\.begun/.test(host.output()), { what: 'the wait to begin' })
    const isWaiting = (): boolean => !/handover\.ended/.test(host.output())
    const signalled = performance.now()
    // Signals within a second of one another count as one.
    await until(() => performance.now() - signalled > 1_500, { what: 'a second signal to count' })
    assert.ok(isWaiting())
    process.kill(host.pid, 'SIGTERM')
    await until(() => !isWaiting(), { what: 'the end of the wait' })
    assert.equal(await host.exited, 0)
  })
})
