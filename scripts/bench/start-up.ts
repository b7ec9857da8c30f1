/** Time from starting `skein up` to serving and to the first token, and what its processes take of memory. */
import { join } from 'node:path'
import { readEventStream } from '../../node/cli/event-stream.ts'
import { EMBEDDED_NAME } from '../../node/model/embedded.ts'
import type { DaemonProcess } from '../daemon-process.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'
import { complete, daemonFlags, packModel, startSwarm } from './loopback-swarm.ts'
import type { SharedModel } from './loopback-swarm.ts'
import type { Workspace } from './workspace.ts'

const PROMPT = 'Once upon a time'
const TOKENS = 100
/** In the swarm whose memory is measured; each holds two thirds of the experts. */
const HOSTS = 3
const MAX_FIRST_TOKEN_MS = 3_000
const BYTES_PER_MIB = 1024 * 1024

type Flag = 'runs'

export const startUpBench: Bench<Flag> = {
  name: 'start-up',
  defaults: { runs: '5' },

  async run({ workspace, flags }) {
    const runs = wholeNumber(flags.runs, 'runs', 1)
    const first: Start[] = []
    const second: Start[] = []
    const model = await packModel(workspace)
    const memory = { gateway: [] as number[], host: [] as number[] }
    for (let run = 0; run < runs; run++) {
      const dataDir = join(workspace.dir, `data-${run}`)
      first.push(await start(workspace, dataDir))
      second.push(await start(workspace, dataDir))
      const measured = await measureMemory(workspace, model, `memory-${run}`)
      memory.gateway.push(measured.gateway)
      memory.host.push(...measured.hosts)
    }
    return [
      ...figuresOf('first start', first),
      ...figuresOf('second start', second),
      figure(`memory of a gateway after ${TOKENS} tokens`, 'MiB', memory.gateway),
      figure(`memory of a host after ${TOKENS} tokens`, 'MiB', memory.host),
    ]
  },
}

/** Milliseconds since the process was started, and of the query alone. */
interface Start {
  readonly serving: number
  readonly firstToken: number
  readonly query: number
}

function figuresOf(name: string, starts: readonly Start[]): ReturnType<typeof figure>[] {
  const of = (key: keyof Start): number[] => starts.map((each) => each[key])
  return [
    figure(`${name}: to serving`, 'ms', of('serving')),
    figure(`${name}: from serving to the first token`, 'ms', of('query')),
    figure(`${name}: to the first token`, 'ms', of('firstToken'), { atMost: MAX_FIRST_TOKEN_MS }),
  ]
}

/** Starts a process that has everything, and stops it after its first token. The first start with a data directory packs the model. */
async function start(workspace: Workspace, dataDir: string): Promise<Start> {
  const startedAt = performance.now()
  const daemon = await workspace.spawn(daemonFlags({ swarm: 'bench-start', dataDir, host: 'all' }))
  const serving = performance.now() - startedAt
  await firstText(daemon)
  const firstToken = performance.now() - startedAt
  await daemon.stop()
  return { serving, firstToken, query: firstToken - serving }
}

/** Resolves when the first text of an answer has come. */
async function firstText(daemon: DaemonProcess): Promise<void> {
  const response = await fetch(`${daemon.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: EMBEDDED_NAME, prompt: PROMPT, max_tokens: TOKENS, temperature: 0, stream: true }),
  })
  if (!response.ok) throw new Error(`the node answered ${response.status}: ${await response.text()}`)
  for await (const data of readEventStream(response)) {
    if (data === '[DONE]') break
    const chunk = JSON.parse(data) as { choices?: { text?: string }[] }
    if (chunk.choices?.[0]?.text) return
  }
  throw new Error('the answer has no text')
}

/** Resident memory in MiB, of a swarm that has just answered. */
async function measureMemory(workspace: Workspace, model: SharedModel, name: string): Promise<{ gateway: number; hosts: number[] }> {
  const { gateway, hosts } = await startSwarm(workspace, model, { name, hosts: HOSTS, layout: 'shards' })
  await complete(gateway, { model: model.manifest.name, prompt: PROMPT, maxTokens: TOKENS })
  const measured = { gateway: await residentMiB(gateway), hosts: await Promise.all(hosts.map(residentMiB)) }
  await Promise.all([gateway, ...hosts].map((daemon) => daemon.stop()))
  return measured
}

/** As the process itself reports it to Prometheus. */
async function residentMiB(daemon: DaemonProcess): Promise<number> {
  const metrics = await (await fetch(`${daemon.url}/metrics`)).text()
  const bytes = /^skein_process_resident_memory_bytes (\S+)$/m.exec(metrics)?.[1]
  if (bytes === undefined) throw new Error(`${daemon.url}/metrics does not tell the resident memory`)
  return Number(bytes) / BYTES_PER_MIB
}

if (import.meta.main) await benchMain(startUpBench.name, [startUpBench])
