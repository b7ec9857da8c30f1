import { Command } from 'commander'
import { loadConfig } from '../config.ts'
import { diagnose } from '../doctor/diagnosis.ts'
import { note } from '../doctor/finding.ts'
import type { Finding, Level } from '../doctor/finding.ts'
import { examineOffline } from '../doctor/offline.ts'
import { redact } from '../doctor/redact.ts'
import { isMeshError } from '../../protocols/wire/errors.ts'
import type { NetworkReport } from '../net/network-report.ts'
import { VERSION } from '../version.ts'
import { DAEMON_FLAGS, daemonFetch } from './daemon.ts'
import type { DaemonOptions } from './daemon.ts'

interface DoctorOptions extends DaemonOptions {
  readonly json?: true
  readonly full?: true
}

/** Something keeps the node from working. */
const EXIT_PROBLEM = 1
const MARKS: Readonly<Record<Level, string>> = Object.freeze({ ok: 'ok     ', note: 'note   ', problem: 'PROBLEM' })

/** `skein doctor`: what works in this node's network, what does not, and what to do about it. */
export function doctorCommand(): Command {
  const command = new Command('doctor').description('examine the network of this node, and say what to do')
  for (const [flag, help] of DAEMON_FLAGS) command.option(flag, help)
  return command
    .option('--json', 'print the findings, and what they are drawn from, as JSON')
    .option('--full', 'whole addresses and peer ids; without it the output is fit to be pasted in public')
    .action(async (options: DoctorOptions) => {
      const show = options.full === true ? (text: string): string => text : redact
      const { findings: found, report } = await examine(options)
      const findings = found.map(({ level, what, advice }) => ({
        level,
        what: show(what),
        advice: advice === null ? null : show(advice),
      }))
      if (options.json === true) console.log(show(JSON.stringify({ version: VERSION, findings, report }, null, 2)))
      else console.log(describeFindings(findings))
      if (findings.some(({ level }) => level === 'problem')) process.exitCode = EXIT_PROBLEM
    })
}

/** `report`: what the running node told; null without one. */
async function examine(options: DaemonOptions): Promise<{ findings: readonly Finding[]; report: NetworkReport | null }> {
  try {
    const report = (await (await daemonFetch(options, '/api/network')).json()) as NetworkReport
    return { findings: diagnose(report), report }
  } catch (error) {
    if (options.api !== undefined) throw error
    const offline = await examineOffline(loadConfig(options.data === undefined ? {} : { data: options.data }, process.env))
    // A node that was killed leaves the note of where it listened.
    const findings = isMeshError(error, 'ConfigError') ? offline : [note((error as Error).message), ...offline]
    return { findings, report: null }
  }
}

/** One line for a finding, and one for what to do. */
export function describeFindings(findings: readonly Finding[]): string {
  return findings
    .flatMap(({ level, what, advice }) => [`${MARKS[level]}  ${what}`, ...(advice === null ? [] : [`         → ${advice}`])])
    .join('\n')
}
