import { join } from 'node:path'
import { InferenceSession } from 'onnxruntime-node'
import type { GraphSource } from './worker-messages.ts'

/** ORT_LOGGING_LEVEL_ERROR: warnings about graph optimisation are of no use to who runs a node. */
const LOG_ERRORS_ONLY = 3

/**
 * Threads of its own that wait do not spin: the next session needs the core. Shared ones do, since the next session needs them.
 * Without an arena each session frees what a run needed; with one, thousands of sessions would each keep their largest (and runs are no slower).
 */
export function createSession(source: GraphSource): Promise<InferenceSession> {
  return InferenceSession.create(source.model, {
    executionProviders: source.provider === undefined || source.provider === 'cpu' ? ['cpu'] : [source.provider, 'cpu'],
    intraOpNumThreads: typeof source.threads === 'number' ? source.threads : 1,
    interOpNumThreads: 1,
    enableCpuMemArena: false,
    enableMemPattern: false,
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
  })
}

/** Has onnxruntime write the packed weights beside the model that it saves. */
function savingPacks(name: string): Record<string, string> {
  return {
    save_external_prepacked_constant_initializers: '1',
    optimized_model_external_initializers_file_name: `${name}.bin`,
    optimized_model_external_initializers_min_size_in_bytes: '1',
  }
}
