import { join } from 'node:path'
import { initOrt, binding } from 'onnxruntime-node/dist/binding.js'
import type { Binding } from 'onnxruntime-node/dist/binding.js'
import { listSupportedBackends } from 'onnxruntime-node'
import type { InferenceSession } from 'onnxruntime-node'
import type { Provider } from './device.ts'
import { freeMemory } from '../../protocols/wire/free-memory.ts'
import type { NativeSemaphore } from './native-semaphore.ts'
import type { Operands } from './operands.ts'
import { LOG_ERRORS_ONLY, ortApi } from './ort-api.ts'
import type { OrtApi, Pointer } from './ort-api.ts'
import type { GraphSource } from './worker-messages.ts'

/** GraphOptimizationLevel */
const OPTIMISE = { nothing: 0, all: 99 } as const

/** A graph that onnxruntime has opened. */
export interface Session {
  /** Computes in this thread, `fetches` from `feeds`. Throws what onnxruntime says. */
  run(feeds: Operands, fetches: Operands): void
  /**
   * Has one of the other threads that sessions share compute and count up `done` at the end, whether or not it went well. Nothing that was
   * given may be freed before. Null where that can't be had.
   */
  readonly runElsewhere: ((feeds: Operands, fetches: Operands, done: NativeSemaphore) => void) | null
  /** The same session in the other threads of this process, see {@link borrowSession}; null where they can't have it. */
  readonly pointer: Pointer | null
  release(): void
}

/** Throws what onnxruntime says when the graph or its weights can't be used. */
export function openSession(source: GraphSource): Session {
  const api = isForProcessor(source) ? apiOrNull() : null
  return api === null ? new PackageSession(source) : new NativeSession(api, openNative(api, source), { isBorrowed: false })
}

/** What another thread of this process has opened, and releases after the last run here; released here, it stays. */
export function borrowSession(pointer: Pointer): Session {
  return new NativeSession(ortApi(), pointer, { isBorrowed: true })
}

/** Over the C API, whose run takes 2 µs where the package's takes 10, and several times as long when the weights have emptied the caches. */
class NativeSession implements Session {
  readonly pointer: Pointer
  readonly #api: OrtApi
  readonly #isBorrowed: boolean

  constructor(api: OrtApi, pointer: Pointer, { isBorrowed }: { readonly isBorrowed: boolean }) {
    this.#api = api
    this.pointer = pointer
    this.#isBorrowed = isBorrowed
  }

  run(feeds: Operands, fetches: Operands): void {
    const api = this.#api
    const from = feeds.nativeOf(api)
    const to = fetches.nativeOf(api)
    api.check(api.run(this.pointer, null, from.names, from.values, from.values.length, to.names, to.values.length, to.values))
  }

  runElsewhere(feeds: Operands, fetches: Operands, { post, memory }: NativeSemaphore): void {
    const api = this.#api
    const from = feeds.nativeOf(api)
    const to = fetches.nativeOf(api)
    const lengths = [from.values.length, to.values.length] as const
    api.check(api.runAsync(this.pointer, null, from.names, from.values, lengths[0], to.names, lengths[1], to.values, post, memory))
  }

  release(): void {
    if (!this.#isBorrowed) this.#api.releaseSession(this.pointer)
  }
}

function openNative(api: OrtApi, source: GraphSource): Pointer {
  const { model, threads } = source
  const options = api.made(api.createSessionOptions)
  try {
    api.check(api.disableCpuMemArena(options))
    api.check(api.disableMemPattern(options))
    api.check(api.setIntraOpNumThreads(options, typeof threads === 'number' ? threads : 1))
    api.check(api.setInterOpNumThreads(options, 1))
    api.check(api.setSessionGraphOptimizationLevel(options, source.isOptimal === true ? OPTIMISE.nothing : OPTIMISE.all))
    api.check(api.setSessionLogSeverityLevel(options, LOG_ERRORS_ONLY))
    for (const [key, value] of Object.entries(settingsOf(source))) api.check(api.addSessionConfigEntry(options, `session.${key}`, value))
    return api.made(api.createSessionFromArray, environmentOf(api), model, model.byteLength, options)
  } finally {
    api.releaseSessionOptions(options)
  }
}

/** Over what the package's own class calls; that class lets the event loop turn before each run and looks at all arguments, another 19 µs. */
class PackageSession implements Session {
  readonly runElsewhere = null
  readonly pointer = null
  readonly #native: Binding.InferenceSession

  constructor(source: GraphSource) {
    initOrt()
    this.#native = new binding.InferenceSession()
    const { buffer, byteOffset, byteLength } = source.model
    this.#native.loadModel(buffer as ArrayBuffer, byteOffset, byteLength, optionsOf(source))
  }

  run(feeds: Operands, fetches: Operands): void {
    // onnxruntime computes into the given tensors; the binding then makes copies of them.
    const copies = this.#native.run(feeds.tensors, fetches.tensors, {})
    for (const { data } of Object.values(copies)) freeMemory(data as Float32Array)
  }

  release(): void {
    this.#native.dispose()
  }
}

/** Whether the processor is all that is asked for. */
function isForProcessor({ provider = 'cpu', saveTo }: GraphSource): boolean {
  return provider === 'cpu' && saveTo === undefined
}

function apiOrNull(): OrtApi | null {
  try {
    return ortApi()
  } catch {
    return null
  }
}

let environment: Pointer | null = null

/** The process's one environment: what another thread or `shareThreads` has made, if any did. Never released. */
function environmentOf(api: OrtApi): Pointer {
  return (environment ??= api.made(api.createEnv, LOG_ERRORS_ONLY, 'skein'))
}

/** Threads of its own that wait do not spin: the next session needs the core. Shared ones do, since the next session needs them. */
function settingsOf(source: GraphSource): Readonly<Record<string, string>> {
  return {
    model_external_initializers_file_folder_path: source.folder,
    'intra_op.allow_spinning': '0',
    ...(source.threads === 'shared' && { use_per_session_threads: '0' }),
    ...(source.saveTo && savingPacks(source.saveTo.name)),
  }
}

/** Without an arena each session frees what a run needed; with one, thousands of sessions would each keep their largest (and runs are no slower). */
function optionsOf(source: GraphSource): InferenceSession.SessionOptions {
  return {
    executionProviders: [...(source.provider === undefined || !supports(source.provider) ? [] : [source.provider]), 'cpu'],
    intraOpNumThreads: typeof source.threads === 'number' ? source.threads : 1,
    interOpNumThreads: 1,
    enableCpuMemArena: false,
    enableMemPattern: false,
    graphOptimizationLevel: source.isOptimal === true ? 'disabled' : 'all',
    logSeverityLevel: LOG_ERRORS_ONLY,
    ...(source.saveTo === undefined ? {} : { optimizedModelFilePath: join(source.saveTo.folder, `${source.saveTo.name}.onnx`) }),
    extra: { session: settingsOf(source) },
  }
}

/** The processor is told last anyway, for what a provider can't compute. */
function supports(provider: Provider): boolean {
  return provider !== 'cpu' && listSupportedBackends().some(({ name }) => name === provider)
}

/** Has onnxruntime write the packed weights beside the model that it saves. */
function savingPacks(name: string): Record<string, string> {
  return {
    save_external_prepacked_constant_initializers: '1',
    optimized_model_external_initializers_file_name: `${name}.bin`,
    optimized_model_external_initializers_min_size_in_bytes: '1',
  }
}
