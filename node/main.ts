import { Command, CommanderError } from 'commander'
import { MeshError } from '../protocols/wire/errors.ts'
import { askCommand } from './cli/ask.ts'
import { benchCommand } from './cli/bench.ts'
import { doctorCommand } from './cli/doctor.ts'
import { downCommand } from './cli/down.ts'
import { holdCommand, releaseCommand } from './cli/hold.ts'
import { inviteCommand } from './cli/invite.ts'
import { joinCommand } from './cli/join.ts'
import { modelsCommand } from './cli/models.ts'
import { packCommand } from './cli/pack.ts'
import { peersCommand } from './cli/peers.ts'
import { statusCommand } from './cli/status.ts'
import { upCommand } from './cli/up.ts'
import { defaultDataDir } from './config.ts'
import { VERSION } from './version.ts'

/** A command line that can't be understood. */
const EXIT_USAGE = 2
/** A command that was understood and failed. */
const EXIT_FAILED = 1

const program = new Command('skein')
  .description('Run mixture-of-experts language models across many machines, expert by expert.')
  .version(VERSION)
  .showSuggestionAfterError()
  .addCommand(upCommand())
  .addCommand(downCommand())
  .addCommand(joinCommand())
  .addCommand(inviteCommand())
  .addCommand(askCommand())
  .addCommand(statusCommand())
  .addCommand(peersCommand())
  .addCommand(doctorCommand())
  .addCommand(modelsCommand())
  .addCommand(holdCommand())
  .addCommand(releaseCommand())
  .addCommand(benchCommand())
  .addCommand(packCommand(defaultDataDir()))
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
