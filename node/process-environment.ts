import { enableCompileCache } from 'node:module'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'

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

/**
 * V8's room for new objects, in MiB, of which there are three; a node under load fills them all. With V8's own 32 a host took 100 MiB more,
 * and a token of the embedded model 1 % less time.
 */
const NEW_SPACE_OPTION = '--max-semi-space-size'
const NEW_SPACE_MIB = 8

/** The environment in which a node starts fast and keeps no more memory than it uses; what the user has set stays. */
export function withProcessSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const settings: NodeJS.ProcessEnv = { NODE_COMPILE_CACHE: COMPILE_CACHE }
  if (process.platform === 'linux') settings['GLIBC_TUNABLES'] = TUNABLES
  const { NODE_OPTIONS: nodeOptions = '' } = env
  const ours = nodeOptions.includes(NEW_SPACE_OPTION) ? [] : [`${NEW_SPACE_OPTION}=${NEW_SPACE_MIB}`]
  return { ...settings, ...env, NODE_OPTIONS: [...ours, nodeOptions].join(' ').trim() }
}

/** Puts this process into that environment by starting its program once more in its place, where the platform can; returns otherwise. */
export function restartWithProcessSettings(): void {
  const env = withProcessSettings(process.env)
  const isThere = Object.keys(env).every((name) => env[name] === process.env[name])
  if (isThere) return
  // A new program would lose the channel to a parent, which can set the environment itself.
  if (!process.connected && process.execve !== undefined) {
    process.execve(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], env)
  }
  enableCompileCache(env['NODE_COMPILE_CACHE'])
}

/**
 * Has V8 collect new objects in the thread that made them: helpers would take the cores on which the engine computes, and be waited for.
 * A token of the embedded model takes 3 % less time.
 */
export function collectWithoutHelpers(): void {
  setFlagsFromString('--no-parallel-scavenge')
}
