import { Command } from 'commander'
import { renderUnicodeCompact } from 'uqr'
import { MAX_USES } from '../../protocols/membership/index.ts'
import { ConfigError } from '../errors.ts'
import { DAEMON_FLAGS, daemonFetch } from './daemon.ts'
import type { DaemonOptions } from './daemon.ts'
import { parseDuration } from './duration.ts'

interface InviteFlags extends DaemonOptions {
  readonly expires: string
  readonly uses?: string
  readonly qr: boolean
}

/** `skein invite`: one text, and a QR code of it, with which others join the swarm of the running node. */
export function inviteCommand(): Command {
  const command = new Command('invite').description('print an invite to the swarm of the running node')
  for (const [flag, help] of DAEMON_FLAGS) command.option(flag, help)
  return command
    .option('--expires <time>', 'how long it is good: 30m, 12h, 7d …', '7d')
    .option('--uses <n>', 'how many nodes it admits, private swarms only (default: any number)')
    .option('--no-qr', 'print the text alone')
    .action(async (options: InviteFlags) => {
      const body = { expiresInSeconds: parseDuration(options.expires, '--expires'), uses: parseUses(options.uses) }
      const response = await daemonFetch(options, '/api/invite', { method: 'POST', body: JSON.stringify(body) })
      const { invite, expiresAt } = (await response.json()) as { invite: string; expiresAt: number }
      if (options.qr) console.log(renderUnicodeCompact(invite, { ecc: 'L' }))
      console.log(invite)
      // To stderr, so that what is piped on is the invite.
      const count = body.uses === 0 ? '' : `, for ${body.uses} ${body.uses === 1 ? 'node' : 'nodes'}`
      console.error(`good until ${new Date(expiresAt).toISOString()}${count}; whoever has it can join: npx skein join <invite>`)
    })
}

function parseUses(text: string | undefined): number {
  if (text === undefined) return 0
  const uses = Number(text)
  if (!Number.isInteger(uses) || uses < 1 || uses > MAX_USES)
    throw new ConfigError(`--uses ${text}: use a whole number from 1 to ${MAX_USES}`)
  return uses
}
