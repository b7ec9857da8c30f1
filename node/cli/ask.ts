import { Command } from 'commander'
import type { QueryReport } from '../driver/query.ts'
import { MeshError } from '../../protocols/wire/errors.ts'
import { rangesOf } from '../router/coverage.ts'
import { DAEMON_FLAGS, daemonFetch } from './daemon.ts'
import type { DaemonOptions } from './daemon.ts'
import { readEventStream } from './event-stream.ts'
import { shortPeer } from './status.ts'
import { table } from './table.ts'

interface AskOptions extends DaemonOptions {
  readonly model: string
  readonly maxTokens?: string
  readonly temperature?: string
  readonly seed?: string
  readonly report?: true
}

/** `skein ask`: one question to the running node, the answer streamed to the terminal. */
export function askCommand(): Command {
  const command = new Command('ask').description('ask the running node a question').argument('<question...>')
  for (const [flag, help] of DAEMON_FLAGS) command.option(flag, help)
  return command
    .option('--model <name>', 'model to ask', 'ember')
    .option('--max-tokens <n>', 'longest answer')
    .option('--temperature <t>', '0 is greedy')
    .option('--seed <n>', 'equal seeds give equal answers')
    .option('--report', 'show afterwards which host computed what')
    .action(async (question: string[], options: AskOptions) => {
      const report = await streamAnswer(options, {
        model: options.model,
        messages: [{ role: 'user', content: question.join(' ') }],
        ...(options.maxTokens === undefined ? {} : { max_tokens: Number(options.maxTokens) }),
        ...(options.temperature === undefined ? {} : { temperature: Number(options.temperature) }),
        ...(options.seed === undefined ? {} : { seed: Number(options.seed) }),
      })
      if (options.report === true) console.log(`\n${describeReport(report)}`)
    })
}

/** Streams a chat completion to stdout and returns its report. Throws `MeshError` when the node refuses or the stream breaks off. */
export async function streamAnswer(daemon: DaemonOptions, body: Record<string, unknown>): Promise<QueryReport> {
  const response = await daemonFetch(daemon, '/v1/chat/completions', { method: 'POST', body: JSON.stringify({ ...body, stream: true }) })
  let report: QueryReport | null = null
  for await (const data of readEventStream(response)) {
    if (data === '[DONE]') break
    const chunk = JSON.parse(data) as { error?: { message: string }; choices?: { delta: { content?: string } }[]; skein?: QueryReport }
    if (chunk.error !== undefined) throw new MeshError(chunk.error.message)
    process.stdout.write(chunk.choices?.[0]?.delta.content ?? '')
    report = chunk.skein ?? report
  }
  process.stdout.write('\n')
  if (report === null) throw new MeshError('the answer broke off before its end')
  return report
}

/** Who computed what, as a table. */
export function describeReport(report: QueryReport, names: ReadonlyMap<string, string> = new Map()): string {
  const rows = report.hosts.map((host) => [
    names.get(host.peer) ?? '-',
    shortPeer(host.peer),
    host.local ? 'this node' : 'remote',
    String(host.calls),
    String(host.rows),
    rangesOf(host.layers),
  ])
  const { local, remote, retried } = report.calls
  return [
    table(['HOST', 'PEER', 'WHERE', 'EXPERT CALLS', 'ROWS', 'LAYERS'], rows),
    `exact: ${report.exact}  ·  ${report.passes} passes  ·  ${remote} remote calls, ${local} local, ${retried} retried  ·  ` +
      `${(report.bytes.sent / 1024).toFixed(0)} KiB sent, ${(report.bytes.received / 1024).toFixed(0)} KiB received  ·  ` +
      `prompt ${report.timeMs.prompt} ms, answer ${report.timeMs.decode} ms`,
  ].join('\n')
}
