import { LOG_ERRORS_ONLY, ortApi } from './ort-api.ts'

/** Why sessions of this process can't share threads; null once they do. */
export type WhyNot = string | null

let shared: { readonly threads: number; readonly whyNot: WhyNot } | null = null

/**
 * Lets all sessions of this process that ask for it (`use_per_session_threads` 0) share one pool of `threads` threads, the one that runs
 * them included, instead of each having threads of its own. The package offers no way to it, so onnxruntime's environment, of which a
 * process has one, is created here through the C API, before anything else asks for it. Must come before the first session of the process;
 * the first call decides. Returns why not, where it can't be had.
 *
 * Source: "Global/shared threadpools" in onnxruntime's docs/C_API.md.
 */
export function shareThreads(threads: number): WhyNot {
  if (shared === null) {
    let whyNot: WhyNot = null
    try {
      if (threads === 1) throw new Error('sessions of this process have a thread of their own each')
      openEnvironment(threads)
    } catch (error) {
      whyNot = (error as Error).message
    }
    shared = { threads, whyNot }
  }
  if (shared.whyNot !== null) return shared.whyNot
  return shared.threads === threads ? null : `this process shares ${shared.threads} threads already`
}

function openEnvironment(threads: number): void {
  const api = ortApi()
  const options = api.made(api.createThreadingOptions)
  try {
    api.check(api.setGlobalIntraOpNumThreads(options, threads))
    api.check(api.setGlobalInterOpNumThreads(options, 1))
    // An operator takes about as long as waking a thread for its half would.
    api.check(api.setGlobalSpinControl(options, 1))
    // Never released: sessions use it as long as the process lives.
    api.made(api.createEnvWithGlobalThreadPools, LOG_ERRORS_ONLY, 'skein', options)
  } finally {
    api.releaseThreadingOptions(options)
  }
}
