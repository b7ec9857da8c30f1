import type { TestContext } from 'node:test'
import { packCommand } from '../../node/cli/pack.ts'

/** Runs `skein pack` with what it prints caught. */
export async function runPack(t: TestContext, dataDir: string, args: readonly string[]): Promise<string> {
  let output = ''
  const write = t.mock.method(process.stdout, 'write', (text: string | Uint8Array) => {
    output += String(text)
    return true
  })
  try {
    const command = packCommand()
      .exitOverride()
      .configureOutput({ writeErr: () => {} })
    await command.parseAsync(['--data', dataDir, ...args], { from: 'user' })
  } finally {
    write.mock.restore()
  }
  return output
}
