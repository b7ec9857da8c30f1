/** A stock go-libp2p node, built from the Go module registry, meets Skein nodes. Skipped where there is no Go. */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createSwarm } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const run = promisify(execFile)
const SOURCE = fileURLToPath(new URL('./go', import.meta.url))
const BUILD_TIMEOUT_MS = 20 * 60_000
const DIAL_TIMEOUT_MS = 60_000

interface PeerEvent {
  readonly event: string
  readonly reason?: string
  readonly agent?: string
  readonly protocols?: readonly string[]
  readonly security?: string
  readonly muxer?: string
  readonly address?: string
  readonly addresses?: readonly string[]
}

const missing = await run('go', ['version']).then(
  () => false,
  () => 'there is no Go here: install it from https://go.dev to test against go-libp2p',
)

describe('go-libp2p', { skip: missing }, () => {
  let dir = ''
  let program = ''
  before(
    async () => {
      dir = await mkdtemp(join(tmpdir(), 'skein-interop-'))
      program = join(dir, 'peer')
      await run('go', ['build', '-o', program, '.'], { cwd: SOURCE, timeout: BUILD_TIMEOUT_MS })
    },
    { timeout: BUILD_TIMEOUT_MS },
  )
  after(() => rm(dir, { recursive: true, force: true }))

  const peer = async (...args: string[]): Promise<PeerEvent[]> => {
    const { stdout } = await run(program, args, { timeout: DIAL_TIMEOUT_MS }).catch((error: { stdout?: string }) => ({
      stdout: error.stdout ?? '',
    }))
    const events = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as PeerEvent)
    assert.ok(!events.some(({ event }) => event === 'failed'), stdout)
    return events
  }

  for (const [security, protocol] of [
    ['tls', '/tls/1.0.0'],
    ['noise', '/noise'],
  ] as const) {
    test(`dials a Skein node with ${security}, identifies it and pings it`, async (t) => {
      const swarm = await createSwarm(t)
      const node = await swarm.start({ host: 'none', punch: false })
      const [met] = await peer('dial', security, node.addresses[0]!)
      assert.equal(met!.security, protocol)
      assert.equal(met!.muxer, '/yamux/1.0.0')
      assert.match(met!.agent!, /^skein\//)
      assert.ok(met!.protocols!.includes('/ipfs/ping/1.0.0'))
    })

    test(`uses a Skein node's relay to reach another, with ${security}`, async (t) => {
      const swarm = await createSwarm(t)
      const relay = await swarm.start({ host: 'none', relay: 'on', punch: false })
      const hidden = await swarm.start({ host: 'none', relay: 'off', punch: false, listen: [] })
      await until(() => hidden.status().relay.using.length > 0, { what: 'a reservation of the hidden node', timeoutMs: 20_000 })
      const events = await peer('via', security, relay.addresses[0]!, hidden.peer)
      assert.deepEqual(
        events.map(({ event }) => event),
        ['reserved', 'met'],
      )
      assert.match(events[1]!.address!, /p2p-circuit/)
      assert.match(events[1]!.agent!, /^skein\//)
    })

    test(`is bootstrap node and relay of Skein nodes, with ${security}`, async (t) => {
      const child = spawn(program, ['relay', security], { stdio: ['pipe', 'pipe', 'inherit'] })
      t.after(() => child.stdin.end())
      const listening = await new Promise<PeerEvent>((resolve) =>
        createInterface({ input: child.stdout }).once('line', (line) => resolve(JSON.parse(line) as PeerEvent)),
      )
      const [address] = listening.addresses!
      const swarm = await createSwarm(t)
      const node = await swarm.start({ host: 'none', relay: 'off', punch: false, listen: [], bootstrap: [address!] })
      await until(() => node.status().relay.using.length > 0, { what: 'a reservation at the go-libp2p relay', timeoutMs: 30_000 })
      assert.ok(node.status().relay.using.some((relay) => address!.endsWith(relay)))
    })
  }
})
