/** A stock rust-libp2p node, built from crates.io, meets Skein nodes. Skipped where there is no cargo. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { interopSuite } from './suite.ts'

const SOURCE = fileURLToPath(new URL('./rust', import.meta.url))

await interopSuite({
  name: 'rust-libp2p',
  toolchain: ['cargo', '--version'],
  missing: 'there is no cargo here: install Rust from https://rustup.rs to test against rust-libp2p',
  build: async (dir, run) => {
    // Compiling all of it takes minutes; whoever sets this variable, which is cargo's own, keeps the result.
    const target = process.env['CARGO_TARGET_DIR'] ?? join(dir, 'target')
    await run('cargo', ['build', '--locked', '--target-dir', target], SOURCE)
    return join(target, 'debug', 'peer')
  },
  hasDht: true,
})
