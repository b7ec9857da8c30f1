import { join } from 'node:path'
import { initOrt, binding } from 'onnxruntime-node/dist/binding.js'
import type { Binding } from 'onnxruntime-node/dist/binding.js'
import { listSupportedBackends } from 'onnxruntime-node'
import type { InferenceSession, Tensor } from 'onnxruntime-node'
import type { Provider } from './device.ts'
import type { GraphSource } from './worker-messages.ts'

/** ORT_LOGGING_LEVEL_ERROR: warnings about graph optimisation are of no use to who runs a node. */
const LOG_ERRORS_ONLY = 3

/**
 * A graph that onnxruntime has opened. The package's own class lets the event loop turn before each run and looks at all arguments: 19 µs,
 * a token's 180 runs one after the other a twentieth of its time. This calls what that class calls.
 */
export class Session {
  readonly #native: Binding.InferenceSession
  readonly #fetches: Readonly<Record<string, null>>

  /** `outputs`: those to compute, all by default. Throws what onnxruntime says when the graph or its weights can't be used. */
  constructor(source: GraphSource, outputs?: readonly string[]) {
    initOrt()
    this.#native = new binding.InferenceSession()
    const { buffer, byteOffset, byteLength } = source.model
    this.#native.loadModel(buffer as ArrayBuffer, byteOffset, byteLength, optionsOf(source))
    const names = outputs ?? this.#native.outputMetadata.map(({ name }) => name)
    this.#fetches = Object.fromEntries(names.map((name) => [name, null]))
  }

  /** Computes in this thread. Throws what onnxruntime says. */
  run(feeds: Readonly<Record<string, Tensor>>): Readonly<Record<string, Tensor>> {
    return this.#native.run(feeds, this.#fetches, {})
  }

  release(): void {
    this.#native.dispose()
  }
}

/**
 * Threads of its own that wait do not spin: the next session needs the core. Shared ones do, since the next session needs them.
 * Without an arena each session frees what a run needed; with one, thousands of sessions would each keep their largest (and runs are no slower).
 */
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
    extra: {
      session: {
        model_external_initializers_file_folder_path: source.folder,
        intra_op: { allow_spinning: '0' },
        ...(source.threads === 'shared' && { use_per_session_threads: '0' }),
        ...(source.saveTo && savingPacks(source.saveTo.name)),
      },
    },
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
