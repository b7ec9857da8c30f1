import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Lab } from './lab.ts'
import type { LabInit, SideInit } from './lab.ts'
import { LabNode } from './lab-node.ts'

export interface PairInit {
  readonly a: SideInit
  readonly b: SideInit
  /** One-way delay of each side's line, and of each public node's. */
  readonly delayMs: number
  readonly publicDelayMs: number
  /** Where the nodes keep their data during the run. */
  readonly dir: string
  /** Holds the packed model. */
  readonly storeDir: string
  /** How long to wait for a direct link. */
  readonly directWithinMs: number
  /** More settings of the nodes behind routers. */
  readonly flags?: readonly string[]
}

/** What one run of a pair showed. */
export interface PairResult {
  /** From the newcomer's start to the end of its first answer. */
  readonly firstAnswerMs: number
  /** From the newcomer's start to the first connection with the host, whatever carries it. */
  readonly connectedMs: number
  /** What carries calls at the end, in the order in which it came: `relay`, `quic`, `tcp`, `webrtc`. */
  readonly links: readonly string[]
  /** From the first connection to the first direct one; null when it stayed relayed. */
  readonly directMs: number | null
  readonly tokensPerSecondBefore: number
  readonly tokensPerSecondAfter: number
  readonly retried: number
  /** Whether the host counted as publicly reachable at the end. */
  readonly isHostPublic: boolean
}

const PROMPT = 'Tell me a story about a dog.'
/** Delays make each token cost four round trips and more. */
const FIRST_TOKENS = 8
const MEASURED_TOKENS = 24
const READY_MS = 40_000
const PUBLICS = ['/ip4/52.0.0.1/tcp/4115', '/ip4/52.0.0.2/tcp/4115'] as const

/**
 * Two public nodes; host b behind its router serves all experts; newcomer a behind its own joins, asks at once, and asks again when the
 * link had time to become direct. Everything is built and removed for this run alone.
 */
export async function runPair(init: PairInit): Promise<PairResult> {
  const labInit: LabInit = { a: init.a, b: init.b, publics: PUBLICS.length, delayMs: init.delayMs, publicDelayMs: init.publicDelayMs }
  const lab = await Lab.create(labInit)
  const nodes: LabNode[] = []
  try {
    const bootstrap: string[] = []
    const start = async (host: 'a' | 'b' | 'p1' | 'p2', extra: readonly string[]): Promise<LabNode> => {
      const common = ['--swarm', 'natlab', '--store', init.storeDir, '--data', join(init.dir, host), '--name', host, '--no-mdns']
      const net = bootstrap.flatMap((address) => ['--bootstrap', address])
      const node = await LabNode.start(lab, host, [...common, ...net, '--threads', '1', '--api-port', '0', ...extra])
      nodes.push(node)
      return node
    }
    for (const [i, address] of PUBLICS.entries()) {
      const node = await start(`p${(i + 1) as 1 | 2}`, ['--host', 'none'])
      bootstrap.push(`${address}/p2p/${node.daemon.peer}`)
    }
    const b = await start('b', ['--host', 'all', ...(init.flags ?? [])])
    if (init.b.nat !== 'open') await b.until((status) => status.relay.using.length > 0, 'a reservation', READY_MS)

    const startedAt = Date.now()
    const a = await start('a', ['--host', 'none', ...(init.flags ?? [])])
    await a.until((status) => status.ready, 'coverage', READY_MS)
    const first = await a.ask(PROMPT, FIRST_TOKENS)
    const firstAnswerMs = Date.now() - startedAt
    await a.until(
      (status) => linkEvents(a, b).some(({ by }) => by !== 'relay') || Date.now() - startedAt > init.directWithinMs || status === null,
      'a direct link',
      init.directWithinMs + READY_MS,
    )
    const settled = await a.ask(PROMPT, MEASURED_TOKENS)
    const links = linkEvents(a, b)
    const [opened] = links
    const direct = links.find(({ by }) => by !== 'relay')
    if (opened === undefined) throw new Error(`a never opened a link to b\n${a.daemon.output()}`)
    return {
      firstAnswerMs,
      connectedMs: opened.at - startedAt,
      links: links.map(({ by }) => by),
      directMs: direct === undefined ? null : direct.at - opened.at,
      tokensPerSecondBefore: rate(first),
      tokensPerSecondAfter: rate(settled),
      isHostPublic: (await b.status()).relay.reach === 'public',
      retried: first.report.calls.retried + settled.report.calls.retried,
    }
  } finally {
    await Promise.all(nodes.map((node) => node.stop()))
    await lab.close()
    await rm(init.dir, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** What carried a's calls to b, as a's log tells. */
function linkEvents(a: LabNode, b: LabNode): { at: number; by: string }[] {
  return a
    .events()
    .filter(({ name, fields }) => name === 'link.opened' && fields.includes(b.daemon.peer))
    .map(({ at, fields }) => ({ at, by: /by=(\S+)/.exec(fields)![1]! }))
}

function rate({ tokens, report }: { tokens: number; report: { timeMs: { decode: number } } }): number {
  return tokens / (report.timeMs.decode / 1000)
}
