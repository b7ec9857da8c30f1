/** Entry of the other process of expert-calls.ts: a host that sends every call's rows back. Ends with its parent. */
import { createExpertHandler, EXPERT_PROTOCOL } from '../../protocols/expert/index.ts'
import { startMeshPeer } from './mesh-peer.ts'

const dir = process.argv[2]
if (dir === undefined || process.send === undefined) throw new Error('echo-host.ts is started by expert-calls.ts')
const peer = await startMeshPeer(dir, 'echo-host')
const handler = createExpertHandler({
  serve: async ({ rowType, rows, width, x }) => ({ status: 'ok', rowType, rows, width, data: x, queueUs: 0, computeUs: 0 }),
})
await peer.mesh.handle(EXPERT_PROTOCOL, (stream, connection) => handler(stream, connection.remotePeer.toString()))
process.on('disconnect', () => void peer.stop().finally(() => process.exit(0)))
process.send(peer.mesh.getMultiaddrs().map((address) => address.toString()))
