import { Command } from 'commander'
import { MeshError } from '../../protocols/wire/errors.ts'
import type { HoldingEvent } from '../host/holdings-service.ts'
import { DAEMON_FLAGS, daemonFetch } from './daemon.ts'
import type { DaemonOptions } from './daemon.ts'
import { readEventStream } from './event-stream.ts'

const WHAT = 'all, a fraction such as 0.5, or <layer>:<first>-<last>,...'

/** `skein hold`: the running node takes up experts, fetched from peers where they are not here. */
export function holdCommand(): Command {
  const command = new Command('hold')
    .description('host experts of a model on the running node, fetched from peers if need be')
    .argument('<model>', 'name or CID')
    .argument('<experts>', WHAT)
  for (const [flag, help] of DAEMON_FLAGS) command.option(flag, help)
  return command
    .option('--pin', 'keep them over restarts, and from --host auto')
    .action(async (model: string, what: string, options: DaemonOptions & { pin?: true }) => {
      await follow(options, '/api/hold', { model, what, pin: options.pin === true })
    })
}

/** `skein release`: the running node gives up experts. */
export function releaseCommand(): Command {
  const command = new Command('release')
    .description('give up experts of a model on the running node')
    .argument('<model>', 'name or CID')
    .argument('<experts>', WHAT)
  for (const [flag, help] of DAEMON_FLAGS) command.option(flag, help)
  return command
    .option('--force', 'also those that nobody else serves')
    .action(async (model: string, what: string, options: DaemonOptions & { force?: true }) => {
      await follow(options, '/api/release', { model, what, force: options.force === true })
    })
}

/** Prints what happens. Throws `MeshError` when the node refuses, when a shard failed, or when the stream breaks off. */
async function follow(options: DaemonOptions, path: string, body: object): Promise<void> {
  const response = await daemonFetch(options, path, { method: 'POST', body: JSON.stringify(body) })
  let failed: number | null = null
  for await (const data of readEventStream(response)) {
    if (data === '[DONE]') break
    const event = JSON.parse(data) as HoldingEvent | { error: { message: string } }
    if ('error' in event) throw new MeshError(event.error.message)
    console.log(describeEvent(event))
    if (event.kind === 'end') failed = event.failed
  }
  if (failed === null) throw new MeshError('the node broke off before the end; "skein status" shows what it holds')
  if (failed > 0) throw new MeshError(`${failed} shards failed; what had come of them is kept for the next try`)
}

function describeEvent(event: HoldingEvent): string {
  switch (event.kind) {
    case 'model':
      return `${event.name} (${event.id}): ${event.shards} shards, ${(event.bytes / 1e6).toFixed(1)} MB`
    case 'shard': {
      const experts = `layer ${event.layer}, experts ${event.first}-${event.last}`
      return event.state === 'failed' ? `failed    ${experts}: ${event.reason}` : `${event.state.padEnd(9)} ${experts}`
    }
    case 'end':
      return `done: ${event.done} of ${event.done + event.failed} shards`
  }
}
