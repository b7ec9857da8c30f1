import { Socket } from 'node:net'
import { connect, createSecureContext, TLSSocket } from 'node:tls'
import type { SecureContext } from 'node:tls'
import { InvalidCryptoExchangeError } from '@libp2p/interface'
import type { ConnectionEncrypter, MessageStream, SecureConnectionOptions, SecuredConnection, StreamMuxerFactory } from '@libp2p/interface'
import { tls } from '@libp2p/tls'
import type { TLSComponents } from '@libp2p/tls'
import { generateCertificate, toMessageStream, verifyPeerCertificate } from '@libp2p/tls/utils'
import { has, sendsAtOnce, STREAM_MEMBERS } from './stream-inside.ts'
import type { StreamInside } from './stream-inside.ts'

/** What ALPN names a peer that negotiates its muxer only after the handshake. */
const NO_EARLY_MUXER = 'libp2p'

interface Handshake {
  readonly components: TLSComponents
  readonly context: SecureContext
  /** libp2p's view of the socket. */
  readonly connection: MessageStream
  readonly socket: Socket
  readonly isServer: boolean
  readonly options: SecureConnectionOptions
}

/**
 * libp2p's TLS with Node's TLS right on the TCP socket. `@libp2p/tls` 3.1.10 puts three streams in JavaScript between the two, which is
 * a third of the CPU time of a small message. The handshake and the bytes on the wire are the same; connections that have no TCP socket
 * of their own are left to the library. A node shows the same certificate on all its connections, as go-libp2p does, since making one costs
 * more than the rest of a handshake.
 */
export function directTls(): (components: TLSComponents) => ConnectionEncrypter {
  const create = tls()
  return (components) => {
    const library = create(components)
    const inbound = library.secureInbound.bind(library)
    const outbound = library.secureOutbound.bind(library)
    let own: Promise<SecureContext> | null = null
    const direct = async (connection: MessageStream, socket: Socket, isServer: boolean, options: SecureConnectionOptions) => {
      own ??= ownContext(components)
      return await secure({ components, context: await own, connection, socket, isServer, options })
    }
    library.secureInbound = (connection, options = {}) => {
      const socket = socketOf(connection)
      return socket === null ? inbound(connection, options) : direct(connection, socket, true, options)
    }
    library.secureOutbound = (connection, options = {}) => {
      const socket = socketOf(connection)
      return socket === null ? outbound(connection, options) : direct(connection, socket, false, options)
    }
    return library
  }
}

async function ownContext({ privateKey }: TLSComponents): Promise<SecureContext> {
  return createSecureContext({ ...(await generateCertificate(privateKey)), minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3' })
}

/** The TCP socket on which libp2p's connection rests, which the TCP transport keeps as `socket`; null for any other connection. */
function socketOf(connection: MessageStream): Socket | null {
  const { socket } = connection as { socket?: unknown }
  return socket instanceof Socket && !(socket instanceof TLSSocket) && socket.readyState === 'open' ? socket : null
}

/** Rejects, and aborts the connection, when the peer is not who it should be, ends the handshake, or `signal` fires. */
async function secure({ components, context, connection, socket, isServer, options }: Handshake): Promise<SecuredConnection> {
  const { signal, remotePeer: expectedPeer } = options
  const early = options.skipStreamMuxerNegotiation !== true
  const muxers = early ? components.upgrader.getStreamMuxers() : new Map<string, StreamMuxerFactory>()
  // Peers sign their own certificates: `verifyPeerCertificate` checks what libp2p put into them.
  const common = { secureContext: context, rejectUnauthorized: false } as const
  takeBytes(connection, socket)
  const secured = isServer
    ? new TLSSocket(socket, {
        ...common,
        isServer,
        requestCert: true,
        ALPNCallback: ({ protocols }) => protocols.find((protocol) => protocol === NO_EARLY_MUXER || muxers.has(protocol)),
      })
    : connect({ ...common, socket, ALPNProtocols: [...muxers.keys(), NO_EARLY_MUXER] })

  const { promise: shaken, resolve, reject } = Promise.withResolvers<void>()
  // It may end when nobody waits for it any more.
  shaken.catch(() => {})
  const fail = (error: Error): void => {
    reject(error)
    secured.destroy()
    connection.abort(error)
  }
  const onAbort = (): void => fail(signal!.reason as Error)
  secured.once('secure', resolve)
  // Stays after the handshake, for errors of the open connection.
  secured.on('error', fail)
  secured.once('close', () => reject(new InvalidCryptoExchangeError('the peer closed the connection during the TLS handshake')))
  signal?.addEventListener('abort', onAbort)
  try {
    signal?.throwIfAborted()
    await shaken
    const { raw } = secured.getPeerCertificate() as { raw?: Uint8Array }
    if (raw === undefined) throw new InvalidCryptoExchangeError('the peer shows no certificate')
    const remotePeer = await verifyPeerCertificate(raw, expectedPeer, components.logger.forComponent('skein:tls'))
    const streamMuxer = muxers.get(String(secured.alpnProtocol))
    return {
      remotePeer,
      connection: sendingAtOnce(toMessageStream(connection, secured), secured),
      ...(streamMuxer === undefined ? {} : { streamMuxer }),
    }
  } catch (error) {
    fail(error as Error)
    throw error
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}

/** The library's stream, whose messages go to the socket without a queue where nothing waits in it. */
function sendingAtOnce<Secured extends MessageStream>(stream: Secured, socket: TLSSocket): Secured {
  if (!has(stream, STREAM_MEMBERS)) return stream
  const inside = stream as unknown as StreamInside
  const sendQueued = stream.send.bind(stream)
  stream.send = (data) => {
    if (!(data instanceof Uint8Array) || !sendsAtOnce(inside)) return sendQueued(data)
    const isReady = socket.write(data)
    if (!isReady) inside.writableNeedsDrain = true
    return isReady
  }
  return stream
}

/** Stops libp2p from reading the socket, and puts back what it has read of the handshake. */
function takeBytes(connection: MessageStream, socket: Socket): void {
  const putBack = ({ data }: { data: Parameters<MessageStream['send']>[0] }): void => {
    socket.unshift(data instanceof Uint8Array ? data : data.subarray())
  }
  connection.pause()
  socket.removeAllListeners('data')
  connection.addEventListener('message', putBack)
  // Hands over what has come so far, at once.
  connection.resume()
  connection.removeEventListener('message', putBack)
  socket.pause()
}
