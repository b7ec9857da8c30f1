import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** Of OrtApi that has been stable since onnxruntime 1.3; asked for at the version in which all of them exist. */
const API_VERSION = 20
/** Places of functions in `struct OrtApi` (onnxruntime_c_api.h), which never change: new ones are only added at its end. */
const SLOTS = {
  getErrorMessage: 2,
  releaseStatus: 93,
  createEnvWithGlobalThreadPools: 119,
  createThreadingOptions: 121,
  releaseThreadingOptions: 122,
  setGlobalIntraOpNumThreads: 147,
  setGlobalInterOpNumThreads: 148,
  setGlobalSpinControl: 149,
} as const
const SLOT_COUNT = Math.max(...Object.values(SLOTS)) + 1
/** ORT_LOGGING_LEVEL_ERROR */
const LOG_ERRORS_ONLY = 3

/** What is used of koffi, which calls functions of shared libraries. */
interface Koffi {
  load(path: string): { func(declaration: string): () => unknown }
  proto(declaration: string): unknown
  array(type: string, length: number): unknown
  decode(pointer: unknown, type: unknown): unknown
}

type Call = (...args: unknown[]) => unknown

/** Why sessions of this process can't share threads; null once they do. */
export type WhyNot = string | null

let shared: { readonly threads: number; readonly whyNot: WhyNot } | null = null

/**
 * Lets all sessions of this process that ask for it (`use_per_session_threads` 0) share one pool of `threads` threads, the one that runs
 * them included, instead of each having threads of its own. The package offers no way to it, so onnxruntime's environment, of which a
 * process has one, is created here through the C API, before the package asks for it. Must come before the first session of the process;
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
  // Elsewhere nothing was tried.
  if (process.platform !== 'linux') throw new Error(`not known to work on ${process.platform}`)
  const require = createRequire(import.meta.url)
  const koffi = require('koffi') as Koffi
  const folder = join(dirname(require.resolve('onnxruntime-node/package.json')), 'bin/napi-v6', process.platform, process.arch)
  const base = koffi.load(join(folder, 'libonnxruntime.so.1')).func('void *OrtGetApiBase()')()
  const [getApi] = koffi.decode(base, koffi.array('void *', 1)) as unknown[]
  const api = (koffi.decode(getApi, koffi.proto('void *OrtGetApi(uint32_t version)')) as Call)(API_VERSION)
  if (api === null) throw new Error(`this onnxruntime has no C API of version ${API_VERSION}`)
  const table = koffi.decode(api, koffi.array('void *', SLOT_COUNT)) as unknown[]
  const bind = (slot: keyof typeof SLOTS, declaration: string): Call => koffi.decode(table[SLOTS[slot]], koffi.proto(declaration)) as Call

  const getErrorMessage = bind('getErrorMessage', 'const char *OrtGetErrorMessage(void *status)')
  const releaseStatus = bind('releaseStatus', 'void OrtReleaseStatus(void *status)')
  const check = (status: unknown): void => {
    if (status === null) return
    const message = String(getErrorMessage(status))
    releaseStatus(status)
    throw new Error(message)
  }
  const options: unknown[] = [null]
  check(bind('createThreadingOptions', 'void *OrtCreateThreadingOptions(_Out_ void **options)')(options))
  const set = (slot: keyof typeof SLOTS, value: number): void => {
    check(bind(slot, `void *Ort_${slot}(void *options, int value)`)(options[0], value))
  }
  try {
    set('setGlobalIntraOpNumThreads', threads)
    set('setGlobalInterOpNumThreads', 1)
    // An operator takes about as long as waking a thread for its half would.
    set('setGlobalSpinControl', 1)
    const create = bind('createEnvWithGlobalThreadPools', 'void *OrtCreateEnv(int level, const char *id, void *options, _Out_ void **env)')
    // Never released: sessions use it as long as the process lives.
    check(create(LOG_ERRORS_ONLY, 'skein', options[0], [null]))
  } finally {
    bind('releaseThreadingOptions', 'void OrtReleaseThreadingOptions(void *options)')(options[0])
  }
}
