/**
 * Weights pass through large buffers while they are loaded. glibc learns to keep such buffers on its heap, where they stay when they are
 * freed (2 GB for a model of 4 GB); with a fixed threshold they go back to the system. It reads this once, when a process starts.
 */
const TUNABLES = 'glibc.malloc.mmap_threshold=524288'

/** The environment in which a node keeps no more memory than it uses; what the user has set stays. */
export function withAllocator(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return process.platform === 'linux' && env['GLIBC_TUNABLES'] === undefined ? { ...env, GLIBC_TUNABLES: TUNABLES } : env
}

/** Puts this process into that environment by starting its program once more in its place, where the platform can; returns otherwise. */
export function restartWithAllocator(): void {
  const env = withAllocator(process.env)
  // A new program would lose the channel to a parent, which can set the environment itself.
  if (env === process.env || process.connected || process.execve === undefined) return
  process.execve(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], env)
}
