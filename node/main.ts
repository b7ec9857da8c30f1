import { Command, CommanderError } from 'commander'
import { MeshError } from '../protocols/wire/errors.ts'
import { collectWithoutHelpers } from './process-environment.ts'
import { VERSION } from './version.ts'

/** A command line that can't be understood. */
const EXIT_USAGE = 2
/** A command that was understood and failed. */
const EXIT_FAILED = 1

/** By name; only the asked one is loaded, so that the others take neither time nor memory. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  up: async () => (await import('./cli/up.ts')).upCommand(),
  down: async () => (await import('./cli/down.ts')).downCommand(),
  join: async () => (await import('./cli/join.ts')).joinCommand(),
  invite: async () => (await import('./cli/invite.ts')).inviteCommand(),
  ask: async () => (await import('./cli/ask.ts')).askCommand(),
  status: async () => (await import('./cli/status.ts')).statusCommand(),
  peers: async () => (await import('./cli/peers.ts')).peersCommand(),
  doctor: async () => (await import('./cli/doctor.ts')).doctorCommand(),
  models: async () => (await import('./cli/models.ts')).modelsCommand(),
  hold: async () => (await import('./cli/hold.ts')).holdCommand(),
  release: async () => (await import('./cli/hold.ts')).releaseCommand(),
  bench: async () => (await import('./cli/bench.ts')).benchCommand(),
  pack: async () => (await import('./cli/pack.ts')).packCommand(),
}

collectWithoutHelpers()

const program = new Command('skein')
  .description('Run mixture-of-experts language models across many machines, expert by expert.')
  .version(VERSION)
  .showSuggestionAfterError()
const asked = process.argv[2] ?? ''
for (const name of Object.hasOwn(COMMANDS, asked) ? [asked] : Object.keys(COMMANDS)) program.addCommand(await COMMANDS[name]!())
for (const command of [program, ...program.commands]) command.exitOverride()

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE
  else if (error instanceof MeshError) {
    console.error(`skein: ${error.message}`)
    process.exitCode = error.name === 'ConfigError' ? EXIT_USAGE : EXIT_FAILED
  } else {
    console.error('skein: internal error:', error)
    process.exitCode = EXIT_FAILED
  }
}
