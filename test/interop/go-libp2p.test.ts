/** A stock go-libp2p node, built from the Go module registry, meets Skein nodes. Skipped where there is no Go. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { interopSuite } from './suite.ts'

const SOURCE = fileURLToPath(new URL('./go', import.meta.url))

await interopSuite({
  name: 'go-libp2p',
  toolchain: ['go', 'version'],
  missing: 'there is no Go here: install it from https://go.dev to test against go-libp2p',
  build: async (dir, run) => {
    const program = join(dir, 'peer')
    await run('go', ['build', '-o', program, '.'], SOURCE)
    return program
  },
  hasDht: false,
})
