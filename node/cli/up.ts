import { Command } from 'commander'
import { loadConfig } from '../config.ts'
import { startNode } from '../node.ts'
import { SETTINGS } from '../settings.ts'
import { onStopSignal } from './stop-signals.ts'

/** `skein up`: runs a node until it is told to stop. */
export function upCommand(): Command {
  const command = new Command('up').description('run a node: host experts, answer queries over HTTP')
  for (const { flag, help } of SETTINGS) command.option(flag, help)
  return command.action(async () => {
    const flags: Record<string, unknown> = command.opts()
    // Commander sets a --no-… switch to true when it is absent; only what was typed may override the environment and the file.
    const typed = Object.fromEntries(Object.entries(flags).filter(([key]) => command.getOptionValueSource(key) === 'cli'))
    const config = loadConfig(typed, process.env)
    const starting = new AbortController()
    const stop = Promise.withResolvers<void>()
    let handover: AbortController | null = null
    onStopSignal(
      () => {
        starting.abort(new Error('stopped while starting'))
        stop.resolve()
      },
      () => {
        const canHurry = handover?.signal.aborted === false
        handover?.abort()
        return canHurry
      },
    )
    const node = await startNode(config, starting.signal)
    const { models } = node.status()
    console.log(`peer       ${node.peer}`)
    for (const address of node.addresses) console.log(`listening  ${address}`)
    for (const model of models) console.log(`model      ${model.name} (${model.architecture}, ${model.quant})`)
    console.log(`swarm      ${config.swarm}`)
    console.log(`api        ${node.url}/v1  ·  dashboard ${node.url}/`)
    await stop.promise
    console.log('stopping …')
    handover = new AbortController()
    await node.leave(handover.signal)
    handover = null
    await node.stop()
    process.exit(0)
  })
}
