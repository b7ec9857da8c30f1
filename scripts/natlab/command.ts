import { execFile } from 'node:child_process'

const TIMEOUT_MS = 20_000

/** Runs a program to its end and returns what it printed; rejects with what it said on stderr. `input` becomes its stdin. */
export function command(program: string, args: readonly string[], input = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, { timeout: TIMEOUT_MS, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(`${program} ${args.join(' ')}: ${stderr.trim() || error.message}`, { cause: error }))
    })
    child.stdin!.on('error', () => {})
    child.stdin!.end(input)
  })
}
