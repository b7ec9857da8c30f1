import type { Stream, StreamMuxerFactory } from '@libp2p/interface'
import { yamux } from '@libp2p/yamux'
import type { YamuxMuxerInit } from '@libp2p/yamux'

/** `WindowUpdate` in the yamux specification. */
const WINDOW_UPDATE = 1
/** Half of the smallest window a peer may start with (256 KiB): a sender always keeps at least the other half. */
const ANNOUNCE_AFTER_BYTES = 128 * 1024

interface FrameHeader {
  readonly type: number
  readonly flag: number
  readonly streamID: number
  readonly length: number
}

/** The inside of `@libp2p/yamux`'s muxer on which this rests. */
interface MuxerInside {
  sendFrame(header: FrameHeader, data?: unknown): unknown
  send(data: Parameters<Stream['send']>[0]): boolean
}

/**
 * yamux that sends a message as one piece. `@libp2p/yamux` 8.0.3 announces received bytes after every frame, and hands a frame's header
 * and body to the encrypter as two chunks: three TLS records, system calls and wake-ups of the peer for each message of an RPC. Here
 * bytes are announced when half a window was read, as the Go implementation does and the specification advises, and a frame is one
 * chunk. On the wire only the number of window updates and of records differs.
 */
export function quietYamux(init: YamuxMuxerInit = {}): () => StreamMuxerFactory {
  const create = yamux(init)
  return () => {
    const factory: StreamMuxerFactory = create()
    const createStreamMuxer = factory.createStreamMuxer.bind(factory)
    factory.createStreamMuxer = (connection) => {
      const muxer = createStreamMuxer(connection)
      const inside = muxer as unknown as Partial<MuxerInside>
      // Another version of the library may look different inside; it then works as it is.
      if (typeof inside.sendFrame === 'function' && typeof inside.send === 'function') quieten(inside as MuxerInside)
      return muxer
    }
    return factory
  }
}

function quieten(muxer: MuxerInside): void {
  const send = muxer.send.bind(muxer)
  muxer.send = (data) => send(data instanceof Uint8Array ? data : data.subarray())

  const sendFrame = muxer.sendFrame.bind(muxer)
  const unannounced = new Map<number, number>()
  muxer.sendFrame = (header, data) => {
    if (header.type !== WINDOW_UPDATE) return sendFrame(header, data)
    const length = header.length + (unannounced.get(header.streamID) ?? 0)
    // Flags open, accept, close and reset streams: those frames always go, with what was held back.
    if (header.flag === 0 && length < ANNOUNCE_AFTER_BYTES) {
      unannounced.set(header.streamID, length)
      return undefined
    }
    unannounced.delete(header.streamID)
    return sendFrame({ ...header, length }, data)
  }
}
