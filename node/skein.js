#!/usr/bin/env node
// Plain JavaScript that any Node can parse: finds a Node that can run the TypeScript beside it, which comes as an npm dependency.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const [major, minor] = process.versions.node.split('.').map(Number)

if (major > 24 || (major === 24 && minor >= 12)) {
  const { restartWithProcessSettings } = await import('./process-environment.ts')
  restartWithProcessSettings()
  await import('./main.ts')
} else {
  const bundled = fileURLToPath(new URL(`../node_modules/node/bin/node${process.platform === 'win32' ? '.exe' : ''}`, import.meta.url))
  if (!existsSync(bundled)) {
    console.error(`skein needs Node 24.12 or newer, this is ${process.versions.node}: run "npm ci" here first, which brings it`)
    process.exit(1)
  }
  const child = spawn(bundled, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => process.exit(signal === null ? code : 1))
}
