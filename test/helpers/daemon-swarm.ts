import { randomBytes } from 'node:crypto'
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { SwarmStatus } from '../../node/api/services.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import type { ModelPackage } from '../../node/model/package.ts'
import { spawnDaemon } from '../../scripts/daemon-process.ts'
import type { DaemonProcess } from '../../scripts/daemon-process.ts'
import { shareOf } from './swarm.ts'
import { until } from './until.ts'

/** This process' environment without the settings of whoever runs the tests. */
export const CLEAN_ENV: NodeJS.ProcessEnv = Object.freeze(
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SKEIN_') && !name.startsWith('NODE_'))),
)

/** Real daemons on loopback that share one blob store and a swarm name of their own. */
export class DaemonSwarm {
  readonly name = `test-${randomBytes(6).toString('hex')}`
  readonly dir: string
  readonly storeDir: string
  readonly model: ModelPackage
  /** Every daemon ever started, by name: the newest of that name. */
  readonly daemons = new Map<string, DaemonProcess>()

  private constructor(dir: string, storeDir: string, model: ModelPackage) {
    this.dir = dir
    this.storeDir = storeDir
    this.model = model
  }

  static async create(): Promise<DaemonSwarm> {
    const dir = await mkdtemp(join(tmpdir(), 'skein-daemons-'))
    const storeDir = join(dir, 'blobs')
    return new DaemonSwarm(dir, storeDir, await ensureEmbeddedModel(createBlobStore({ dir: storeDir })))
  }

  /** The flags of the daemon called `name`, whose data directory has that name too. Flags given later override. */
  flags(name: string, extra: readonly string[] = []): string[] {
    const data = ['--data', join(this.dir, name), '--store', this.storeDir]
    const net = ['--swarm', this.name, '--listen', '/ip4/127.0.0.1/tcp/0', '--no-mdns', '--api-port', '0']
    return [...data, ...net, '--name', name, '--threads', '1', '--log', 'info', ...extra]
  }

  /** Starts a daemon; it joins through the gateway, where there is one. */
  async start(name: string, extra: readonly string[] = []): Promise<DaemonProcess> {
    const gateway = this.daemons.get('gateway')
    const bootstrap = gateway === undefined || name === 'gateway' ? [] : gateway.addresses.flatMap((address) => ['--bootstrap', address])
    const daemon = await spawnDaemon(this.flags(name, [...bootstrap, ...extra]), { env: CLEAN_ENV })
    this.daemons.set(name, daemon)
    return daemon
  }

  /** A gateway that hosts nothing and three hosts, each shard on two of them, as `npm start` has it. Resolves when all serve. */
  async startFour(): Promise<void> {
    const gateway = await this.start('gateway', ['--host', 'none'])
    await Promise.all(HOSTS.map((name) => this.startHost(name)))
    await untilServing(gateway.url, HOSTS.length, 2)
  }

  /** Starts, or starts again, one of the three hosts. */
  async startHost(name: string): Promise<DaemonProcess> {
    return await this.start(name, ['--host', shareOf(this.model, HOSTS.indexOf(name), HOSTS.length, 2)])
  }

  get(name: string): DaemonProcess {
    return this.daemons.get(name)!
  }

  /** The last of what each daemon wrote. */
  logs(): string {
    return [...this.daemons.values()].map((daemon) => `--- ${daemon.name}\n${daemon.output().slice(-LOG_CHARACTERS)}`).join('\n')
  }

  async stop(): Promise<void> {
    await Promise.all([...this.daemons.values()].map((daemon) => daemon.stop()))
    await rm(this.dir, { recursive: true, force: true, maxRetries: 5 })
  }
}

export const HOSTS: readonly string[] = Object.freeze(['host-1', 'host-2', 'host-3'])
const LOG_CHARACTERS = 4_000

/** Within a suite: daemons that live as long as it, their logs printed after a test that failed. `prepare` starts them. */
export function daemonSwarm(prepare: (swarm: DaemonSwarm) => Promise<void>): () => DaemonSwarm {
  let swarm: DaemonSwarm | null = null
  before(async () => {
    swarm = await DaemonSwarm.create()
    await prepare(swarm).catch((error: Error) => {
      throw new Error(`${error.message}\n${swarm!.logs()}`, { cause: error })
    })
  })
  afterEach((t) => {
    if (!(t as unknown as { passed: boolean }).passed) console.error(swarm?.logs())
  })
  after(() => swarm?.stop())
  return () => swarm!
}

export async function statusOf(url: string): Promise<SwarmStatus> {
  return (await (await fetch(`${url}/api/swarm`)).json()) as SwarmStatus
}

/** Waits until the node can call `hosts` hosts, has measured each of them, and every expert has `replicas`. */
export async function untilServing(url: string, hosts: number, replicas: number): Promise<SwarmStatus> {
  return await until(
    async () => {
      const status = await statusOf(url)
      const answering = status.peers.filter((peer) => peer.experts > 0 && peer.connected && peer.rttMs !== null && peer.backoffMs === 0)
      return status.models.every((model) => model.coverage.minReplicas >= replicas) && answering.length >= hosts ? status : null
    },
    { what: `${hosts} hosts serve every expert ${replicas} times`, timeoutMs: 60_000, intervalMs: 100 },
  )
}

export interface CommandResult {
  readonly code: number | string
  readonly stdout: string
  readonly stderr: string
}

const SHIM = fileURLToPath(new URL('../../node/skein.js', import.meta.url))
const COMMAND_TIMEOUT_MS = 60_000

/** Runs `skein <args>` to its end; `code` is the signal's name when one ended it, as after a minute. */
export function skein(args: readonly string[], options: { env?: NodeJS.ProcessEnv; node?: string } = {}): Promise<CommandResult> {
  return new Promise((resolve) => {
    const settings = { env: options.env ?? CLEAN_ENV, timeout: COMMAND_TIMEOUT_MS, killSignal: 'SIGKILL' } as const
    execFile(options.node ?? process.execPath, [SHIM, ...args], settings, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : (error.code ?? error.signal ?? 'unknown'), stdout, stderr }),
    )
  })
}
