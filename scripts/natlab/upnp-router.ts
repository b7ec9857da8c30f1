/**
 * The UPnP side of a home router: an Internet Gateway Device 2 that answers searches (SSDP) and port mapping requests (SOAP) on the
 * router's LAN, and forwards the mapped ports with nft. Runs in the router's namespace as `upnp-router.ts <LAN address> <WAN address>`;
 * prints `up`; ends with its stdin.
 */
import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const DEVICE = 'urn:schemas-upnp-org:device:InternetGatewayDevice:2'
const SERVICE = 'urn:schemas-upnp-org:service:WANIPConnection:2'
const SSDP = { port: 1900, group: '239.255.255.250' } as const
const USN = 'uuid:5ce1a000-0000-4000-8000-000000000001'
const CONTROL = '/control'
/** UPnP's error numbers. */
const INVALID_ACTION = 401
const INVALID_ARGS = 402
const NOT_IN_ARRAY = 714

interface Mapping {
  readonly protocol: 'tcp' | 'udp'
  readonly port: number
  readonly client: string
  readonly clientPort: number
}

const [lan, wan] = process.argv.slice(2) as [string, string]
const mappings = new Map<string, Mapping>()

/** Lets the mapped ports in; what the router does besides stands in `nat-rules.ts`. */
function forward(): void {
  const rules = [...mappings.values()].map(
    ({ protocol, port, client, clientPort }) => `iifname wan ${protocol} dport ${port} dnat to ${client}:${clientPort};`,
  )
  const table = `table ip upnp_lab { chain prerouting { type nat hook prerouting priority -110; ${rules.join(' ')} }; }\n`
  execFileSync('nft', ['-f', '-'], { input: `table ip upnp_lab {}\ndelete table ip upnp_lab\n${table}` })
}

function perform(action: string, argument: (name: string) => string): Record<string, string | number> | number {
  switch (action) {
    case 'GetExternalIPAddress':
      return { NewExternalIPAddress: wan }
    case 'AddAnyPortMapping': {
      const protocol = argument('NewProtocol').toLowerCase()
      const [port, clientPort] = [Number(argument('NewExternalPort')), Number(argument('NewInternalPort'))]
      const client = argument('NewInternalClient')
      if ((protocol !== 'tcp' && protocol !== 'udp') || !/^[\d.]+$/.test(client) || !(port > 0) || !(clientPort > 0)) return INVALID_ARGS
      mappings.set(`${protocol} ${port}`, { protocol, port, client, clientPort })
      forward()
      return { NewReservedPort: port }
    }
    case 'DeletePortMapping': {
      const port = Number(argument('NewExternalPort'))
      const protocols = argument('NewProtocol') === '' ? ['tcp', 'udp'] : [argument('NewProtocol').toLowerCase()]
      const found = protocols.filter((protocol) => mappings.delete(`${protocol} ${port}`))
      forward()
      return found.length > 0 ? {} : NOT_IN_ARRAY
    }
    default:
      return INVALID_ACTION
  }
}

const soap = (body: string): string =>
  `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>${body}</s:Body></s:Envelope>`

const server = createServer((request, response) => {
  const say = (status: number, body: string): void => void response.writeHead(status, { 'content-type': 'text/xml' }).end(body)
  if (request.url !== CONTROL) return say(200, description())
  let text = ''
  request.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  request.on('end', () => {
    const action = /#(\w+)/.exec(String(request.headers['soapaction']))?.[1] ?? ''
    const result = perform(action, (name) => new RegExp(`<${name}>([^<]*)</${name}>`).exec(text)?.[1] ?? '')
    if (typeof result !== 'number') {
      const fields = Object.entries(result).map(([name, value]) => `<${name}>${value}</${name}>`)
      return say(200, soap(`<u:${action}Response xmlns:u="${SERVICE}">${fields.join('')}</u:${action}Response>`))
    }
    say(500, soap(`<s:Fault><detail><UPnPError><errorCode>${result}</errorCode></UPnPError></detail></s:Fault>`))
  })
})

function description(): string {
  const device = (type: string, rest: string): string => `<device><deviceType>${type}</deviceType><UDN>${USN}</UDN>${rest}</device>`
  const service = `<serviceList><service><serviceType>${SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>/scpd</SCPDURL><controlURL>${CONTROL}</controlURL><eventSubURL>/events</eventSubURL></service></serviceList>`
  const connection = `<deviceList>${device('urn:schemas-upnp-org:device:WANConnectionDevice:2', service)}</deviceList>`
  const wanDevice = `<deviceList>${device('urn:schemas-upnp-org:device:WANDevice:2', connection)}</deviceList>`
  return `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>${device(DEVICE, wanDevice)}</root>`
}

await new Promise<void>((resolve) => server.listen(0, lan, resolve))
const location = `http://${lan}:${(server.address() as AddressInfo).port}/`
const socket = createSocket({ type: 'udp4', reuseAddr: true })
socket.on('message', (data, from) => {
  const text = data.toString()
  if (!text.startsWith('M-SEARCH') || !text.includes(DEVICE)) return
  const lines = [
    'HTTP/1.1 200 OK',
    `ST: ${DEVICE}`,
    `USN: ${USN}::${DEVICE}`,
    `LOCATION: ${location}`,
    'CACHE-CONTROL: max-age=1800',
    'EXT:',
  ]
  socket.send(`${lines.join('\r\n')}\r\n\r\n`, from.port, from.address)
})
await new Promise<void>((resolve) => socket.bind(SSDP.port, resolve))
socket.addMembership(SSDP.group, lan)
console.log('up')
process.stdin.resume().on('close', () => process.exit(0))
