import { randomBytes } from 'node:crypto'
import type { Connection } from '@libp2p/interface'
import { byteStream } from '@libp2p/utils'

const PING_PROTOCOL = '/ipfs/ping/1.0.0'
const PING_BYTES = 32

/** Round trip over this very connection, in milliseconds (libp2p's ping picks one by itself). Rejects with the signal's reason, or when the peer answers wrongly. */
export async function pingOver(connection: Connection, signal: AbortSignal): Promise<number> {
  const stream = await connection.newStream(PING_PROTOCOL, { signal, runOnLimitedConnection: true })
  try {
    const bytes = byteStream(stream)
    const sent = randomBytes(PING_BYTES)
    const startedAt = performance.now()
    await bytes.write(sent, { signal })
    const received = await bytes.read({ bytes: PING_BYTES, signal })
    const rttMs = performance.now() - startedAt
    if (Buffer.compare(sent, received.subarray()) !== 0) throw new Error('the peer answered a ping with other bytes')
    await stream.close({ signal })
    return rttMs
  } catch (error) {
    stream.abort(error as Error)
    throw error
  }
}
