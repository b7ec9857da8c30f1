/**
 * The lab's internet: an Ethernet switch in user space that gives each port a delay, since netem is not in every kernel. Ports are VXLAN
 * devices of the kernel, all with this process as their far end; the VXLAN network id is the port's number.
 *
 * Run as `frame-switch.ts <address> <kernel's address> <port>=<delay ms> ...`; prints `up`; ends with its stdin.
 */
import { createSocket } from 'node:dgram'

const VXLAN_PORT = 4789
const HEADER_BYTES = 8
const ETHERNET_BYTES = 14
const BUFFER_BYTES = 8 * 1024 * 1024

const [address, kernel, ...ports] = process.argv.slice(2) as [string, string, ...string[]]
const delays = new Map(ports.map((port) => port.split('=').map(Number) as [number, number]))
const learnt = new Map<string, number>()
const socket = createSocket({ type: 'udp4', recvBufferSize: BUFFER_BYTES, sendBufferSize: BUFFER_BYTES })

socket.on('message', (frame) => {
  if (frame.length < HEADER_BYTES + ETHERNET_BYTES) return
  const from = frame.readUIntBE(4, 3)
  learnt.set(frame.toString('latin1', HEADER_BYTES + 6, HEADER_BYTES + 12), from)
  const known = learnt.get(frame.toString('latin1', HEADER_BYTES, HEADER_BYTES + 6))
  for (const to of known === undefined ? delays.keys() : [known]) {
    if (to === from) continue
    const copy = Buffer.from(frame)
    copy.writeUIntBE(to, 4, 3)
    const delayMs = delays.get(from)! + delays.get(to)!
    if (delayMs === 0) socket.send(copy, VXLAN_PORT, kernel)
    else setTimeout(() => socket.send(copy, VXLAN_PORT, kernel), delayMs)
  }
})
socket.bind(VXLAN_PORT, address, () => console.log('up'))
process.stdin.resume().on('close', () => process.exit(0))
