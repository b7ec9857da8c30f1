import { connect, createServer, isIP } from 'node:net'
import type { Server } from 'node:net'
import type { Endpoint } from '../../../protocols/punch/index.ts'

/** Connections that the reflector holds open at once, and for how long. */
const MAX_CONNECTIONS = 64
const CONNECTION_MS = 3_000
/** The longest line: an IPv6 address, a space, a port, a line feed. */
const MAX_LINE_BYTES = 64
const REFLECT_TIMEOUT_MS = 1_500

/** Tells whoever connects, in one line, the address and port that it comes from. */
export class TcpReflector {
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
  }

  /** Listens on `port`, or any when it is taken or 0. */
  static async open(port: number): Promise<TcpReflector> {
    try {
      return new TcpReflector(await listen(port))
    } catch (error) {
      if (port === 0) throw error
      return new TcpReflector(await listen(0))
    }
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  close(): void {
    this.#server.close()
  }
}

/** How the reflector sees a connection from `localPort`; null when it does not answer in time. The caller may not listen on that port. */
export function reflectTcp(reflector: Endpoint, localPort: number): Promise<Endpoint | null> {
  return new Promise((resolve) => {
    const socket = connect({ host: reflector.address, port: reflector.port, localPort })
    const end = (seen: Endpoint | null): void => {
      clearTimeout(timer)
      // A reset leaves no TIME_WAIT behind, which would keep the port from being listened on.
      socket.resetAndDestroy()
      resolve(seen)
    }
    const timer = setTimeout(() => end(null), REFLECT_TIMEOUT_MS)
    let line = ''
    socket.setEncoding('latin1')
    socket.on('data', (text: string) => {
      line += text
      if (line.length > MAX_LINE_BYTES) end(null)
      const said = /^([0-9a-fA-F.:]+) (\d{1,5})\n/.exec(line)
      if (said !== null) end(endpointOf(said[1]!, Number(said[2])))
    })
    socket.on('error', () => end(null))
    socket.on('close', () => end(null))
  })
}

/** null where a reflector says something that is no endpoint. */
function endpointOf(address: string, port: number): Endpoint | null {
  return isIP(address) !== 0 && port > 0 && port < 65_536 ? { address, port } : null
}

function listen(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.setTimeout(CONNECTION_MS, () => socket.destroy())
      socket.resume()
      socket.write(`${socket.remoteAddress?.replace(/^::ffff:/, '')} ${socket.remotePort}\n`)
    })
    server.maxConnections = MAX_CONNECTIONS
    server.once('error', reject)
    server.listen(port, () => {
      server.removeListener('error', reject)
      server.on('error', () => {})
      resolve(server)
    })
  })
}
