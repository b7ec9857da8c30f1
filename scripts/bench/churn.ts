/** Six hosts that place by themselves, one killed or joined every ten seconds, under constant load: failed answers, time to recover. */
import { join } from 'node:path'
import { runChurn } from '../churn-run.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'
import type { Figure } from './figures.ts'

const MAX_RECOVERY_S = 20
const MAX_USEFUL_S = 60
const ASKERS = 2
/** Six hosts with half of the model each: three hosts of every expert while all are there. */
const BUDGET = 0.5

type Flag = 'minutes' | 'hosts' | 'every' | 'logs'

export const churnBench: Bench<Flag> = {
  name: 'churn',
  /** `--logs <folder>` keeps what the daemons log. */
  defaults: { minutes: '5', hosts: '6', every: '10', logs: '' },

  async run({ workspace, seed, flags }) {
    const everyMs = wholeNumber(flags.every, 'every', 1) * 1000
    const result = await runChurn({
      dir: join(workspace.dir, 'churn'),
      hosts: wholeNumber(flags.hosts, 'hosts', 3),
      budget: BUDGET,
      everyMs,
      events: Math.round((wholeNumber(flags.minutes, 'minutes', 1) * 60_000) / everyMs),
      askers: ASKERS,
      seed,
      log: (line) => console.log(`  ${new Date().toISOString().slice(11, 23)} ${line}`),
      ...(flags.logs === '' ? {} : { logs: flags.logs }),
    })
    for (const failure of result.failures) console.log(`  failed: ${failure}`)
    const figures: Figure[] = [
      figure('answers', '', [result.answers]),
      figure('failed answers', '', [result.failures.length], { atMost: 0 }),
      figure('hosts killed or stopped', '', [result.lost]),
      figure('hosts joined', '', [result.joined]),
      figure('fewest hosts of an expert at any time', '', [result.fewest]),
      figure('longest with an expert on fewer than two hosts', 's', [Math.max(0, ...result.gapsMs) / 1000], { atMost: MAX_RECOVERY_S }),
    ]
    if (result.gapsMs.length > 0)
      figures.push(
        figure(
          'with an expert on fewer than two hosts',
          's',
          result.gapsMs.map((ms) => ms / 1000),
        ),
      )
    if (result.usefulMs.length > 0)
      figures.push(
        figure(
          'joined until useful',
          's',
          result.usefulMs.map((ms) => ms / 1000),
          { atMost: MAX_USEFUL_S },
        ),
      )
    return figures
  },
}

if (import.meta.main) await benchMain(churnBench.name, [churnBench])
