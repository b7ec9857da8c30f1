import { table } from '../../node/cli/table.ts'
import type { PairResult } from './pair-run.ts'

/** The runs of each pair in one line: in how many it was direct, by which ways, and medians. */
export function pairTable(results: ReadonlyMap<string, readonly PairResult[]>): string {
  const rows = [...results].map(([pair, runs]) => {
    const direct = runs.filter((run) => run.directMs !== null)
    return [
      pair.replace('-', ' x '),
      `${direct.length}/${runs.length}`,
      [...new Set(runs.map((run) => run.links.join(' > ')))].join(' | '),
      ms(runs.map((run) => run.connectedMs)),
      ms(direct.map((run) => run.directMs!)),
      ms(runs.map((run) => run.firstAnswerMs)),
      rate(runs.map((run) => run.tokensPerSecondBefore)),
      rate(runs.map((run) => run.tokensPerSecondAfter)),
      String(runs.reduce((sum, run) => sum + run.retried, 0)),
    ]
  })
  const head = ['PAIR', 'DIRECT', 'LINKS', 'CONNECTED', '+ DIRECT', 'FIRST ANSWER', 'TOKENS/S FIRST', 'TOKENS/S SETTLED', 'REPEATED CALLS']
  return table(head, rows)
}

function median(values: readonly number[]): number | null {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? null
}

function ms(values: readonly number[]): string {
  const value = median(values)
  return value === null ? '-' : `${Math.round(value)} ms`
}

function rate(values: readonly number[]): string {
  return median(values)?.toFixed(1) ?? '-'
}
