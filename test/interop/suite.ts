import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { dhtProtocol, openSwarm } from '../../node/swarm/swarm.ts'
import { ask, createSwarm, untilReady } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const run = promisify(execFile)
const BUILD_TIMEOUT_MS = 20 * 60_000
const DIAL_TIMEOUT_MS = 60_000
/** Nobody can dial such a node. */
const HIDDEN = Object.freeze({ relay: 'off', punch: false, listen: [] as string[] })
const PROMPT = { messages: [{ role: 'user', content: 'Tell me a story about a dog.' }] }

/** A libp2p node of another kind. */
export interface PeerKind {
  readonly name: string
  /** Prints its version where it can be built. */
  readonly toolchain: readonly [string, ...string[]]
  /** Why it is skipped elsewhere. */
  readonly missing: string
  /** Builds the program with the toolchain's registry, below `dir` or where earlier builds are; resolves with its path. */
  readonly build: (dir: string, run: (program: string, args: readonly string[], cwd: string) => Promise<void>) => Promise<string>
  /** Whether its `relay` is told the protocol of a DHT which it then serves. */
  readonly hasDht: boolean
}

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

/** The tests that a peer of any kind has to pass. */
export async function interopSuite({ name, toolchain, missing, build, hasDht }: PeerKind): Promise<void> {
  const [command, ...versionArgs] = toolchain
  const skip = await run(command, versionArgs).then(
    () => false,
    () => missing,
  )
  describe(name, { skip }, () => {
    let dir = ''
    let program = ''
    before(
      async () => {
        dir = await mkdtemp(join(tmpdir(), 'skein-interop-'))
        program = await build(dir, async (compiler, args, cwd) => void (await run(compiler, args, { cwd, timeout: BUILD_TIMEOUT_MS })))
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

    /** Its address as bootstrap node and relay, until the test ends. */
    const startRelay = async (t: TestContext, ...args: string[]): Promise<string> => {
      const child = spawn(program, ['relay', ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
      t.after(() => child.stdin.end())
      const line = await new Promise<string>((resolve) => createInterface({ input: child.stdout }).once('line', resolve))
      return (JSON.parse(line) as PeerEvent).addresses![0]!
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
        const hidden = await swarm.start({ ...HIDDEN, host: 'none' })
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
        const address = await startRelay(t, security)
        const swarm = await createSwarm(t)
        const node = await swarm.start({ ...HIDDEN, host: 'none', bootstrap: [address] })
        await until(() => node.status().relay.using.length > 0, { what: `a reservation at the ${name} relay`, timeoutMs: 30_000 })
        assert.ok(node.status().relay.using.some((relay) => address.endsWith(relay)))
      })
    }

    const skipDht = hasDht ? false : `the ${name} node of this test serves no DHT`
    test('two Skein nodes that know only it find each other in its DHT, and answer over its relay', { skip: skipDht }, async (t) => {
      const swarm = await createSwarm(t)
      const address = await startRelay(t, 'tls', dhtProtocol(openSwarm(swarm.name)))
      const host = await swarm.start({ ...HIDDEN, host: 'all', bootstrap: [address] })
      await until(() => host.status().relay.using.length > 0, { what: 'a reservation of the host', timeoutMs: 30_000 })
      const gateway = await swarm.start({ ...HIDDEN, host: 'none', bootstrap: [address] })
      await untilReady(gateway, 1)
      const { report } = await ask(gateway, PROMPT)
      assert.deepEqual([report.exact, report.hosts.map((used) => used.peer)], [true, [host.peer]])
    })
  })
}
