import { StreamMessageEvent } from '@libp2p/interface'
import type { MultiaddrConnection, StreamMuxer, StreamMuxerFactory } from '@libp2p/interface'
import { yamux } from '@libp2p/yamux'
import type { YamuxMuxerInit } from '@libp2p/yamux'
import { has, sendsAtOnce, STREAM_MEMBERS } from './stream-inside.ts'
import type { Bytes, StreamInside } from './stream-inside.ts'

/** Frame types of the yamux specification. */
const FrameType = Object.freeze({ data: 0, windowUpdate: 1 })
/** Version, type, flags, stream and length, big-endian. */
const HEADER_BYTES = 12
/** Half of the smallest window a peer may start with (256 KiB): a sender always keeps at least the other half. */
const ANNOUNCE_AFTER_BYTES = 128 * 1024

interface FrameHeader {
  readonly type: number
  readonly flag: number
  readonly streamID: number
  readonly length: number
}

interface ConnectionInside extends StreamInside {
  onData(data: Bytes): void
  listenerCount(type: string): number
}

type MessageListener = (event: StreamMessageEvent) => void

interface YamuxStreamInside extends StreamInside, EventTarget {
  readonly remoteWriteStatus: string
  onData(data: Bytes): void
  listenerCount(type: string): number
  readonly streamId: number
  readonly maxMessageSize: number
  sendWindowCapacity: number
  getSendFlags(): number
  handleData(frame: { readonly header: FrameHeader; readonly data: Uint8Array }): void
}

/** The inside of `@libp2p/yamux`'s muxer. */
interface MuxerInside {
  readonly streams: readonly YamuxStreamInside[]
  readonly decoder: { readonly buffer: { readonly byteLength: number } }
  onData(data: Bytes): void
  sendFrame(header: FrameHeader, data?: Bytes): boolean | undefined
  send(data: Bytes): boolean
  _newStream(...args: unknown[]): YamuxStreamInside
}

const MUXER_MEMBERS = Object.freeze(['streams', 'decoder', 'onData', 'sendFrame', 'send', '_newStream'])
const YAMUX_STREAM_MEMBERS = Object.freeze([
  'streamId',
  'maxMessageSize',
  'sendWindowCapacity',
  'getSendFlags',
  'handleData',
  'onData',
  'remoteWriteStatus',
  'listenerCount',
])

/**
 * yamux that passes a message on as one piece. `@libp2p/yamux` 8.0.3 announces received bytes after every frame, and hands a frame's header
 * and body to the encrypter as two chunks: three TLS records, system calls and wake-ups of the peer for each message of an RPC. Here
 * bytes are announced when half a window was read, as the Go implementation does and the specification advises, and a frame is one
 * chunk. On the wire only the number of window updates and of records differs.
 *
 * On its way through the library a message passes through lists and events of the connection and of the stream. Where nothing waits before
 * it, which is so for nearly all messages of an RPC, those are left out: weights that pass through the caches between two messages make
 * each step of code several times as slow.
 */
export function quietYamux(init: YamuxMuxerInit = {}): () => StreamMuxerFactory {
  const create = yamux(init)
  return () => {
    const factory: StreamMuxerFactory = create()
    const createStreamMuxer = factory.createStreamMuxer.bind(factory)
    factory.createStreamMuxer = (connection) => {
      const muxer = createStreamMuxer(connection)
      const inside = muxer as unknown as MuxerInside
      // Another version of the library may look different inside; it then works as it is.
      if (has(inside, MUXER_MEMBERS)) {
        sendInOnePiece(inside)
        receiveInOnePiece(inside)
        const link = connection as unknown as ConnectionInside
        if (has(link, [...STREAM_MEMBERS, 'onData', 'listenerCount'])) receiveWithoutEvents(link, connection, muxer)
      }
      return muxer
    }
    return factory
  }
}

function sendInOnePiece(muxer: MuxerInside): void {
  const send = muxer.send.bind(muxer)
  muxer.send = (data) => send(data instanceof Uint8Array ? data : data.subarray())

  const sendFrame = muxer.sendFrame.bind(muxer)
  const unannounced = new Map<number, number>()
  muxer.sendFrame = (header, data) => {
    if (header.type === FrameType.data && data !== undefined) return muxer.send(dataFrame(header, data))
    if (header.type !== FrameType.windowUpdate) return sendFrame(header, data)
    const length = header.length + (unannounced.get(header.streamID) ?? 0)
    // Flags open, accept, close and reset streams: those frames always go, with what was held back.
    if (header.flag === 0 && length < ANNOUNCE_AFTER_BYTES) {
      unannounced.set(header.streamID, length)
      return undefined
    }
    unannounced.delete(header.streamID)
    return sendFrame({ ...header, length }, data)
  }

  const newStream = muxer._newStream.bind(muxer)
  muxer._newStream = (...args) => {
    const stream = newStream(...args)
    if (!has(stream, [...STREAM_MEMBERS, ...YAMUX_STREAM_MEMBERS])) return stream
    tellListenerDirectly(stream)
    const sendQueued = stream.send.bind(stream)
    stream.send = (data) => {
      const { byteLength: length } = data
      const isPlain = sendsAtOnce(stream) && length > 0 && length <= Math.min(stream.sendWindowCapacity, stream.maxMessageSize)
      if (!isPlain) return sendQueued(data)
      const header = { type: FrameType.data, flag: stream.getSendFlags(), streamID: stream.streamId, length }
      stream.sendWindowCapacity -= length
      try {
        const isReady = muxer.sendFrame(header, data) === true
        if (!isReady) stream.writableNeedsDrain = true
        return isReady
      } catch (error) {
        stream.abort(error as Error)
        throw error
      }
    }
    return stream
  }
}

/**
 * What the stream receives goes to its listener, if there is just one, without passing through the stream's list and Node's dispatch of
 * events. A listener that throws ends the stream; by Node's dispatch it would end the process.
 */
function tellListenerDirectly(stream: YamuxStreamInside): void {
  const plain = new Set<MessageListener>()
  const add = stream.addEventListener.bind(stream)
  stream.addEventListener = (type, listener, options) => {
    const before = stream.listenerCount('message')
    add(type, listener, options)
    // Who listens already, perhaps with options, stays as it was.
    const isNew = type === 'message' && stream.listenerCount('message') > before
    if (isNew && typeof listener === 'function' && options === undefined) plain.add(listener)
  }
  const remove = stream.removeEventListener.bind(stream)
  stream.removeEventListener = (type, listener, options) => {
    if (type === 'message') plain.delete(listener as MessageListener)
    remove(type, listener, options)
  }
  const onData = stream.onData.bind(stream)
  stream.onData = (data) => {
    const isOpen = stream.readStatus === 'readable' && stream.readBuffer.byteLength === 0 && stream.remoteWriteStatus === 'writable'
    const [listener] = stream.listenerCount('message') === 1 ? plain : []
    if (!isOpen || data.byteLength === 0 || listener === undefined) return onData(data)
    try {
      listener(new StreamMessageEvent(data))
    } catch (error) {
      stream.abort(error as Error)
    }
  }
}

/** A chunk that is one frame of data without flags goes to its stream as it is. */
function receiveInOnePiece(muxer: MuxerInside): void {
  const onData = muxer.onData.bind(muxer)
  muxer.onData = (data) => {
    const chunk = data instanceof Uint8Array ? data : data.subarray()
    const header = muxer.decoder.buffer.byteLength === 0 ? wholeDataFrame(chunk) : null
    const stream = header === null ? undefined : muxer.streams.find(({ streamId }) => streamId === header.streamID)
    if (stream === undefined) onData(chunk)
    else stream.handleData({ header: header!, data: chunk.subarray(HEADER_BYTES) })
  }
}

/** What the connection receives goes to the muxer, if nobody else listens, without an event. */
function receiveWithoutEvents(inside: ConnectionInside, connection: Pick<MultiaddrConnection, 'abort'>, muxer: StreamMuxer): void {
  const onData = inside.onData.bind(inside)
  inside.onData = (data) => {
    const isPlain = inside.readStatus === 'readable' && inside.readBuffer.byteLength === 0 && inside.listenerCount('message') === 1
    if (!isPlain || data.byteLength === 0) return onData(data)
    try {
      ;(muxer as unknown as MuxerInside).onData(data)
    } catch (error) {
      muxer.abort(error as Error)
      connection.abort(error as Error)
    }
  }
}

function dataFrame({ type, flag, streamID, length }: FrameHeader, data: Bytes): Uint8Array {
  const frame = Buffer.allocUnsafeSlow(HEADER_BYTES + length)
  frame[0] = 0
  frame[1] = type
  frame.writeUInt16BE(flag, 2)
  frame.writeUInt32BE(streamID, 4)
  frame.writeUInt32BE(length, 8)
  frame.set(data instanceof Uint8Array ? data : data.subarray(), HEADER_BYTES)
  return frame
}

/** The header of a chunk that is exactly one frame of data without flags, else null. */
function wholeDataFrame(chunk: Uint8Array): FrameHeader | null {
  if (chunk.length < HEADER_BYTES || chunk[0] !== 0 || chunk[1] !== FrameType.data || chunk[2] !== 0 || chunk[3] !== 0) return null
  const view = new DataView(chunk.buffer, chunk.byteOffset, HEADER_BYTES)
  const length = view.getUint32(8)
  return length === chunk.length - HEADER_BYTES ? { type: FrameType.data, flag: 0, streamID: view.getUint32(4), length } : null
}
