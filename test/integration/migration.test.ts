/**
 * A direct link opens while an answer is generated over a relay: calls move to it, and nobody notices. `SKEIN_MIGRATIONS` sets how often
 * by QUIC, and half as often by WebRTC.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { PUNCH_LIMITS } from '../../protocols/punch/index.ts'
import { linkKind } from '../../node/net/link-kind.ts'
import { Puncher } from '../../node/net/punch/puncher.ts'
import { startNewcomer } from '../helpers/newcomer.ts'
import { ask, createSwarm } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const MIGRATIONS = Number(process.env['SKEIN_MIGRATIONS'] ?? 4)
const PROMPT = { messages: [{ role: 'user', content: 'Tell me a fairy tale about a king.' }] }
const FIELDS = Object.freeze({ maxTokens: 100, logprobs: 1 } as const)
/** When the punch begins: the answer is well under way, and far from its end. */
const PUNCH_AT_TOKEN = 5

for (const { way, kind, migrations } of [
  { way: 'udp', kind: 'quic', migrations: MIGRATIONS },
  { way: 'webrtc', kind: 'webrtc', migrations: Math.ceil(MIGRATIONS / 2) },
] as const) {
  const title = `an answer goes on over a direct link by ${kind}, with the same tokens and no failed call`
  test(title, { timeout: 60_000 + migrations * 15_000 }, async (t) => {
    const swarm = await createSwarm(t)
    const relay = await swarm.start({ host: 'none', relay: 'on' })
    const host = await swarm.start({ listen: [], relay: 'off', host: 'all', punchPort: 0, punchBy: [way] })
    await until(() => host.status().relay.using.length === 1, { what: 'the reservation of the host', timeoutMs: 20_000 })

    const newcomer = await startNewcomer(t, swarm, relay.addresses)
    const { mesh } = newcomer.bare
    const events: string[] = []
    const log = (event: string, fields: Record<string, unknown>): void => void events.push(`${event} ${JSON.stringify(fields)}`)
    const puncher = new Puncher({ mesh, parts: mesh.services.parts, port: 0, ways: [way], log })
    await puncher.start()
    t.after(() => puncher.stop())
    const moved: Promise<void>[] = []
    mesh.addEventListener('connection:open', ({ detail }) => void moved.push(newcomer.keeper.connected(detail.remotePeer.toString())))
    const circuit = multiaddr(`${relay.addresses[0]}/p2p-circuit/p2p/${host.peer}`)
    const links = () => mesh.getConnections().filter(({ remotePeer, status }) => remotePeer.toString() === host.peer && status === 'open')

    for (const { cid } of swarm.model.manifest.blobs.filter((blob) => blob.role === 'experts')) {
      const find = (): Promise<unknown[]> => newcomer.records.find(cid, 1, AbortSignal.timeout(5_000))
      await until(async () => (await find()).length === 1, { what: `a provider record of ${cid}`, timeoutMs: 30_000 })
    }

    let expected: Awaited<ReturnType<typeof ask>> | null = null
    let punchedAt = -Infinity
    for (let i = 0; i <= migrations; i++) {
      // The host takes no offers of one peer faster than that.
      const mayOffer = (): boolean => performance.now() - punchedAt > PUNCH_LIMITS.minOfferIntervalMs
      await until(mayOffer, { what: 'the host takes another offer' })
      await Promise.all(links().map((connection) => connection.close()))
      const relayed = await mesh.dial(circuit, { signal: AbortSignal.timeout(10_000) })
      assert.equal(linkKind(relayed), 'relay')
      if (i > 0) await newcomer.links.open(host.peer)
      let punching: Promise<readonly unknown[]> | null = null
      const answer = await ask(newcomer, PROMPT, FIELDS, (tokens) => {
        // The first answer is the one that the others are compared with.
        if (i === 0 || tokens < PUNCH_AT_TOKEN || punching !== null) return
        punchedAt = performance.now()
        punching = puncher.punch(relayed, AbortSignal.timeout(15_000))
      })
      assert.equal(answer.report.calls.retried, 0, `round ${i}`)
      assert.equal(answer.report.exact, true)
      expected ??= answer
      assert.deepEqual(answer.tokens, expected.tokens, `round ${i}`)
      assert.deepEqual(answer.logprobs, expected.logprobs, `round ${i}`)
      if (i === 0) continue
      assert.equal((await punching!).length, 1, `round ${i}: ${events.join(', ')}`)
      await Promise.all(moved.splice(0))
      assert.ok(!newcomer.links.canImprove(host.peer) && links().some((connection) => linkKind(connection) === kind))
    }
  })
}
