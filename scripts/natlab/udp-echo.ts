/** Answers each datagram with the address it came from; prints `up`, ends with its stdin. Run as `udp-echo.ts <port> ...`. */
import { createSocket } from 'node:dgram'

const ports = process.argv.slice(2).map(Number)
await Promise.all(
  ports.map(async (port) => {
    const socket = createSocket('udp4')
    socket.on('message', (_, { address, port: from }) => socket.send(`${address}:${from}`, from, address))
    await new Promise<void>((resolve) => socket.bind(port, resolve))
  }),
)
console.log('up')
process.stdin.resume().on('close', () => process.exit(0))
