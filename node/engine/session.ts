import { InferenceSession } from 'onnxruntime-node'
import type { GraphSource } from './worker-messages.ts'

/**
 * One session, one thread: the workers are the parallelism, and a pool of threads per session would be thousands of threads.
 * Without an arena each session frees what a run needed; with one, thousands of sessions would each keep their largest.
 */
export function createSession(source: GraphSource): Promise<InferenceSession> {
  return InferenceSession.create(source.model, {
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
    extra: { session: { model_external_initializers_file_folder_path: source.folder } },
  })
}
