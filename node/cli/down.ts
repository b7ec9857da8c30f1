import { setTimeout as delay } from 'node:timers/promises'
import { Command } from 'commander'
import { MeshError } from '../../protocols/wire/errors.ts'
import { defaultDataDir } from '../config.ts'
import { ConfigError } from '../errors.ts'
import { runningDaemon } from './background-daemon.ts'

/** Longer than a node hands over by default, drains and stops. */
const STOP_TIMEOUT_MS = 60_000
const POLL_MS = 100

/** `skein down`: stops the node that runs on a data directory. */
export function downCommand(): Command {
  return new Command('down')
    .description('stop the running node')
    .option('--data <dir>', 'data directory of the node (default: ~/.skein)')
    .action(async (options: { data?: string }) => {
      const dataDir = options.data ?? process.env['SKEIN_DATA'] ?? defaultDataDir()
      const running = await runningDaemon(dataDir)
      if (running === null) throw new ConfigError(`no node is running on ${dataDir}`)
      process.kill(running.pid, 'SIGTERM')
      const deadline = performance.now() + STOP_TIMEOUT_MS
      while ((await runningDaemon(dataDir)) !== null) {
        if (performance.now() > deadline) {
          throw new MeshError(`the node (process ${running.pid}) did not stop within ${STOP_TIMEOUT_MS / 1000} s: kill it`)
        }
        await delay(POLL_MS)
      }
      console.log('stopped')
    })
}
