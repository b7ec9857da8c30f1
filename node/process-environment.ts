import { enableCompileCache } from 'node:module'
import { fileURLToPath } from 'node:url'

/**
 * Weights pass through large buffers while they are loaded. glibc learns to keep such buffers on its heap, where they stay when they are
 * freed (2 GB for a model of 4 GB); buffers from this size on go back to the system. It reads the setting once, when a process starts.
 */
export const MMAP_THRESHOLD_BYTES = 524_288
const TUNABLES = `glibc.malloc.mmap_threshold=${MMAP_THRESHOLD_BYTES}`
/**
 * Where Node keeps compiled modules, stripped of their types. Without it every thread loads the compiler that strips them (10 MB each),
 * and starting takes three times as long. Beside the installed packages, since only who may change the program may write there.
 */
const COMPILE_CACHE = fileURLToPath(new URL('../node_modules/.cache/skein', import.meta.url))

/** The environment in which a node starts fast and keeps no more memory than it uses; what the user has set stays. */
export function withProcessSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const settings: NodeJS.ProcessEnv = { NODE_COMPILE_CACHE: COMPILE_CACHE }
  if (process.platform === 'linux') settings['GLIBC_TUNABLES'] = TUNABLES
  return { ...settings, ...env }
}

/** Puts this process into that environment by starting its program once more in its place, where the platform can; returns otherwise. */
export function restartWithProcessSettings(): void {
  const env = withProcessSettings(process.env)
  const isThere = Object.keys(env).every((name) => name in process.env)
  if (isThere) return
  // A new program would lose the channel to a parent, which can set the environment itself.
  if (!process.connected && process.execve !== undefined) {
    process.execve(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], env)
  }
  enableCompileCache(env['NODE_COMPILE_CACHE'])
}
