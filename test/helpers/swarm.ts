import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { loadConfig } from '../../node/config.ts'
import type { Config } from '../../node/config.ts'
import type { QueryEvent, QueryReport, QueryRequest } from '../../node/driver/query.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import type { ModelPackage } from '../../node/model/package.ts'
import { startNode } from '../../node/node.ts'
import type { SkeinNode } from '../../node/node.ts'
import type { RawSettings } from '../../node/settings.ts'
import { inputOf } from './prompts.ts'
import type { Prompt } from './prompts.ts'
import { until } from './until.ts'

/** Anything with an end: a test, or a suite by way of a collector. */
export type Teardown = Pick<TestContext, 'after'>

/** Nodes of this process that share one blob store and a swarm name that nobody else has. */
export interface TestSwarm {
  readonly name: string
  readonly dir: string
  readonly storeDir: string
  readonly model: ModelPackage
  /** Settings of one more node: loopback, free ports, silent, no mDNS, one engine thread; joins through the nodes started before. */
  config(flags?: RawSettings): Config
  /** Starts a node of these settings. It is stopped with the test if not before. */
  start(flags?: RawSettings): Promise<SkeinNode>
}

/** A swarm of the embedded model, without any node yet. Everything ends with the test. */
export async function createSwarm(t: Teardown): Promise<TestSwarm> {
  const name = `test-${randomBytes(6).toString('hex')}`
  const dir = await mkdtemp(join(tmpdir(), 'skein-swarm-'))
  const nodes: SkeinNode[] = []
  t.after(async () => {
    await Promise.all(nodes.map((node) => node.stop()))
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  const storeDir = join(dir, 'blobs')
  const model = await ensureEmbeddedModel(createBlobStore({ dir: storeDir }))
  let started = 0
  const config = (flags: RawSettings = {}): Config =>
    loadConfig(
      {
        data: join(dir, `node-${started++}`),
        store: storeDir,
        swarm: name,
        listen: ['/ip4/127.0.0.1/tcp/0'],
        bootstrap: nodes.flatMap((node) => node.addresses),
        mdns: false,
        threads: 1,
        apiPort: 0,
        log: 'silent',
        ...flags,
      },
      {},
    )
  return {
    name,
    dir,
    storeDir,
    model,
    config,
    start: async (flags = {}) => {
      const node = await startNode(config(flags))
      nodes.push(node)
      return node
    },
  }
}

/** `--host` of part `part` of `parts`: shard i of the model goes to parts i, i + 1, ... modulo `parts`, `replicas` of them. */
export function shareOf(model: ModelPackage, part: number, parts: number, replicas = 1): string {
  return model.manifest.blobs
    .filter((blob) => blob.role === 'experts')
    .filter((_, i) => Array.from({ length: replicas }, (__, replica) => (i + replica) % parts).includes(part))
    .map(({ layer, first, last }) => `${layer}:${first}-${last}`)
    .join(',')
}

/** Waits until every expert has `replicas` hosts that the node can call, and every host that it knows has answered it. */
export async function untilReady(node: SkeinNode, hosts: number, replicas = 1): Promise<void> {
  await until(
    () => {
      const { models, peers } = node.status()
      const answered = peers.filter((peer) => peer.experts > 0 && peer.rttMs !== null).length
      return models.every((model) => model.coverage.minReplicas >= replicas) && answered >= hosts
    },
    { what: `${hosts} hosts serve every expert ${replicas} times`, timeoutMs: 30_000 },
  )
}

/** A whole answer. */
export interface Answer {
  readonly text: string
  readonly tokens: readonly number[]
  readonly logprobs: Extract<QueryEvent, { kind: 'text' }>['logprobs']
  readonly finishReason: 'stop' | 'length'
  readonly report: QueryReport
}

/** Asks a node greedily, unless `fields` say otherwise, and collects the answer. `onText` hears of each piece. */
export async function ask(
  node: Pick<SkeinNode, 'queries'>,
  prompt: Prompt,
  fields: Partial<QueryRequest> = {},
  onText: (tokens: number) => void = () => {},
): Promise<Answer> {
  const request: QueryRequest = {
    model: 'ember',
    input: inputOf(prompt),
    maxTokens: 14,
    sampling: { temperature: 0, seed: 1 },
    stop: [],
    logprobs: null,
    ...fields,
  }
  let text = ''
  const tokens: number[] = []
  const logprobs: Answer['logprobs'][number][] = []
  for await (const event of node.queries.answer(request)) {
    if (event.kind === 'text') {
      text += event.text
      tokens.push(...event.tokens)
      logprobs.push(...event.logprobs)
      onText(tokens.length)
    } else if (event.kind === 'end') {
      return { text, tokens, logprobs, finishReason: event.finishReason, report: event.report }
    }
  }
  throw new Error('the answer broke off before its end')
}

/** Runs `task` over the items, `lanes` at a time, and returns the results in the items' order. */
export async function mapInLanes<T, R>(items: readonly T[], lanes: number, task: (item: T, index: number) => Promise<R>): Promise<R[]> {
  const results = Array.from<R>({ length: items.length })
  let next = 0
  const lane = async (): Promise<void> => {
    for (let i = next++; i < items.length; i = next++) results[i] = await task(items[i]!, i)
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  return results
}
