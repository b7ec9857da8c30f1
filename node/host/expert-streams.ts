import type { StreamHandler } from '@libp2p/interface'
import { createExpertHandler } from '../../protocols/expert/index.ts'
import type { ExpertHost } from './expert-host.ts'

/** Serves `/skein/expert/1` with the host's experts; what goes wrong with a peer is logged under its name. */
export function expertStreams(
  host: Pick<ExpertHost, 'serve'>,
  log: (event: string, fields: Record<string, unknown>) => void,
): StreamHandler {
  const handler = createExpertHandler({
    serve: (call) => host.serve(call),
    onFailure: (peer, error) => log('expert.failed', { peer, reason: error.message }),
    onViolation: (peer, error) => log('expert.violation', { peer, reason: error.message }),
  })
  return (stream, connection) => handler(stream, connection.remotePeer.toString())
}
