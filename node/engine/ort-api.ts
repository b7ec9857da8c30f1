import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { loadKoffi } from './native-library.ts'
import type { NativeFunction } from './native-library.ts'

/** Asked for at the version in which all of the functions exist. */
const API_VERSION = 20
/** ORT_LOGGING_LEVEL_ERROR: warnings about graph optimisation are of no use to who runs a node. */
export const LOG_ERRORS_ONLY = 3

/**
 * Functions by their place in `struct OrtApi` (onnxruntime_c_api.h), which never changes: new ones are only added at its end. Those that
 * can fail return a status, null when all went well.
 */
const FUNCTIONS = {
  getErrorMessage: [2, 'const char *OrtGetErrorMessage(void *status)'],
  createEnv: [3, 'void *OrtCreateEnv(int level, const char *id, _Out_ void **env)'],
  createSessionFromArray: [8, 'void *OrtCreateSessionFromArray(void *env, void *model, size_t bytes, void *options, _Out_ void **session)'],
  run: [
    9,
    'void *OrtRun(void *session, void *options, void *inNames, void *inputs, size_t inCount, void *outNames, size_t outCount, void *outputs)',
  ],
  createSessionOptions: [10, 'void *OrtCreateSessionOptions(_Out_ void **options)'],
  disableMemPattern: [17, 'void *OrtDisableMemPattern(void *options)'],
  disableCpuMemArena: [19, 'void *OrtDisableCpuMemArena(void *options)'],
  setSessionLogSeverityLevel: [22, 'void *OrtSetSessionLogSeverityLevel(void *options, int level)'],
  setSessionGraphOptimizationLevel: [23, 'void *OrtSetSessionGraphOptimizationLevel(void *options, int level)'],
  setIntraOpNumThreads: [24, 'void *OrtSetIntraOpNumThreads(void *options, int threads)'],
  setInterOpNumThreads: [25, 'void *OrtSetInterOpNumThreads(void *options, int threads)'],
  createTensorWithDataAsOrtValue: [
    49,
    'void *OrtCreateTensorWithData(void *info, void *data, size_t bytes, const int64_t *shape, size_t rank, int type, _Out_ void **value)',
  ],
  createCpuMemoryInfo: [69, 'void *OrtCreateCpuMemoryInfo(int allocator, int memory, _Out_ void **info)'],
  releaseStatus: [93, 'void OrtReleaseStatus(void *status)'],
  releaseSession: [95, 'void OrtReleaseSession(void *session)'],
  releaseValue: [96, 'void OrtReleaseValue(void *value)'],
  releaseSessionOptions: [100, 'void OrtReleaseSessionOptions(void *options)'],
  createEnvWithGlobalThreadPools: [
    119,
    'void *OrtCreateEnvWithGlobalThreadPools(int level, const char *id, void *options, _Out_ void **env)',
  ],
  createThreadingOptions: [121, 'void *OrtCreateThreadingOptions(_Out_ void **options)'],
  releaseThreadingOptions: [122, 'void OrtReleaseThreadingOptions(void *options)'],
  addSessionConfigEntry: [130, 'void *OrtAddSessionConfigEntry(void *options, const char *key, const char *value)'],
  setGlobalIntraOpNumThreads: [147, 'void *OrtSetGlobalIntraOpNumThreads(void *options, int threads)'],
  setGlobalInterOpNumThreads: [148, 'void *OrtSetGlobalInterOpNumThreads(void *options, int threads)'],
  runAsync: [
    260,
    'void *OrtRunAsync(void *session, void *options, void *inNames, void *inputs, size_t inCount, void *outNames, size_t outCount, void *outputs, void *callback, void *data)',
  ],
  setGlobalSpinControl: [149, 'void *OrtSetGlobalSpinControl(void *options, int spins)'],
} as const
const SLOT_COUNT = 1 + Math.max(...Object.values(FUNCTIONS).map(([slot]) => slot))

export type Pointer = bigint
type OrtFunctions = Readonly<Record<keyof typeof FUNCTIONS, NativeFunction>>

/** onnxruntime's C API, for what its package for Node has no way to or does in many steps. */
export interface OrtApi extends OrtFunctions {
  /** Throws what onnxruntime says when the status is an error. */
  check(status: unknown): void
  /** What a function writes to its last argument. Throws what onnxruntime says. */
  made(create: NativeFunction, ...args: readonly unknown[]): Pointer
  /** Where the memory of an array begins. It stays there as long as the array lives. */
  addressOf(memory: ArrayBufferView): Pointer
}

let loaded: OrtApi | Error | null = null

/** The C API of the library that the package `onnxruntime-node` brings. Throws why it can't be had. */
export function ortApi(): OrtApi {
  try {
    loaded ??= load()
  } catch (error) {
    loaded = error as Error
  }
  if (loaded instanceof Error) throw loaded
  return loaded
}

function load(): OrtApi {
  // Elsewhere nothing was tried.
  if (process.platform !== 'linux') throw new Error(`not known to work on ${process.platform}`)
  const require = createRequire(import.meta.url)
  const koffi = loadKoffi()
  const folder = join(dirname(require.resolve('onnxruntime-node/package.json')), 'bin/napi-v6', process.platform, process.arch)
  const base = koffi.load(join(folder, 'libonnxruntime.so.1')).func('void *OrtGetApiBase()')()
  const [getApi] = koffi.decode(base, koffi.array('void *', 1)) as unknown[]
  const api = (koffi.decode(getApi, koffi.proto('void *OrtGetApi(uint32_t version)')) as NativeFunction)(API_VERSION)
  if (api === null) throw new Error(`this onnxruntime has no C API of version ${API_VERSION}`)
  const table = koffi.decode(api, koffi.array('void *', SLOT_COUNT)) as unknown[]
  const entries = Object.entries(FUNCTIONS).map(([name, [slot, declaration]]) => {
    return [name, koffi.decode(table[slot], koffi.proto(declaration)) as NativeFunction] as const
  })
  const functions = Object.fromEntries(entries) as OrtFunctions
  const check = (status: unknown): void => {
    if (status === null) return
    const message = String(functions.getErrorMessage(status))
    functions.releaseStatus(status)
    throw new Error(message)
  }
  const made = (create: NativeFunction, ...args: readonly unknown[]): Pointer => {
    const out: [Pointer | null] = [null]
    check(create(...args, out))
    return out[0]!
  }
  return { ...functions, check, made, addressOf: (memory) => koffi.address(memory) }
}
