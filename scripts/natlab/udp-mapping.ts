/** Prints, as a JSON list, how each of the given `host:port` sees one socket of this machine; null for one that does not answer. */
import { createSocket } from 'node:dgram'

const TRIES = 5
const TRY_MS = 300
const targets = process.argv.slice(2)
const seen = new Map<string, string>()
const socket = createSocket('udp4')
socket.on('message', (data, { address, port }) => {
  seen.set(`${address}:${port}`, data.toString())
  if (seen.size === targets.length) done()
})
const done = (): void => {
  console.log(JSON.stringify(targets.map((target) => seen.get(target) ?? null)))
  process.exit(0)
}
for (let i = 0; i < TRIES; i++) {
  for (const target of targets) {
    const [host, port] = target.split(':') as [string, string]
    if (!seen.has(target)) socket.send('?', Number(port), host)
  }
  await new Promise((resolve) => setTimeout(resolve, TRY_MS))
}
done()
