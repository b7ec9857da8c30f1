import { createConnection, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import type { Teardown } from './swarm.ts'

/** A line to a node of this machine that takes time, and can fall silent while its connections stay open. */
export interface SlowLine {
  readonly address: string
  /** May change while the line is at rest, and upwards. */
  oneWayMs: number
  isSilent: boolean
}

/** Another address of a node, over which everything takes `oneWayMs` longer each way. `target`: a multiaddr with a TCP port. */
export async function startSlowLine(t: Teardown, target: string, oneWayMs: number): Promise<SlowLine> {
  const line = { address: '', oneWayMs, isSilent: false }
  const sockets = new Set<Socket>()
  const port = Number(/tcp\/(\d+)/.exec(target)![1])
  const server = createServer((inbound) => {
    const outbound = createConnection({ host: '127.0.0.1', port })
    for (const [from, to] of [
      [inbound, outbound],
      [outbound, inbound],
    ] as const) {
      sockets.add(from)
      from.setNoDelay(true)
      // Timers of equal length end in the order in which they were set.
      from.on('data', (bytes) => setTimeout(() => line.isSilent || to.destroyed || to.write(bytes), line.oneWayMs))
      from.on('close', () => setTimeout(() => line.isSilent || to.destroy(), line.oneWayMs))
      from.on('error', () => to.destroy())
    }
  })
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  line.address = target.replace(/tcp\/\d+/, `tcp/${(server.address() as AddressInfo).port}`)
  return line
}
