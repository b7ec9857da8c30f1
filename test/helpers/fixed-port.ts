import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'

/** Below the ports that Linux (32768 on), macOS and Windows (49152 on) give to those who ask for any. */
const PORTS = { from: 20_000, to: 32_000 } as const

/** A free TCP port of loopback that nobody else is given while its owner is away, unlike one got by listening on port 0. */
export async function fixedPort(): Promise<number> {
  for (;;) {
    const port = randomInt(PORTS.from, PORTS.to)
    const server = createServer().listen(port, '127.0.0.1')
    const isFree = await once(server, 'listening').then(
      () => true,
      () => false,
    )
    server.close()
    if (isFree) return port
  }
}
