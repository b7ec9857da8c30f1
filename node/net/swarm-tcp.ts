import type { Server } from 'node:net'
import type { Transport } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import type { TCPComponents } from '@libp2p/tcp'
import type { Multiaddr } from '@multiformats/multiaddr'
import { preparedUpgrader } from './punch/prepared-upgrader.ts'

/** What a dial fails with at an address that takes connections and then says nothing that can be understood. */
export const NO_HANDSHAKE =
  'somebody answers, but not as a peer of this swarm: no peer listens there, its line is very slow, or one side has another key for the swarm'

/** For a connection to be accepted; what follows may take longer, over a slow line. */
const CONNECT_MS = 6_000

/**
 * TCP whose failures tell an address where nobody answers from one where no peer of this swarm does: the key of a private swarm encrypts
 * all that is said, so who has another one understands nothing, and hangs up or waits. It also works over link-local IPv6, whose
 * addresses (fe80::/10) mean something on one network interface only: `@libp2p/tcp` 11.0.28 leaves the zone out when it dials
 * `/ip6zone/<interface>/ip6/...`, and drops connections that come from such an address.
 */
export function swarmTcp(): (components: TCPComponents) => Transport {
  const create = tcp()
  return (components) => {
    const transport = create(components)
    const dial = transport.dial.bind(transport)
    transport.dial = async (address, options) => {
      const connecting = new AbortController()
      const timer = setTimeout(() => connecting.abort(new Error('no answer in time')), CONNECT_MS)
      let isConnected = false
      const onConnected = (): void => {
        isConnected = true
        clearTimeout(timer)
      }
      const signal = AbortSignal.any([options.signal, connecting.signal])
      const upgrader = preparedUpgrader(options.upgrader, { outbound: onConnected })
      try {
        // What libp2p passes to a dial goes on to `net.connect`, past what the transport has read from the address.
        return await dial(address, { ...options, ...zonedHost(address), signal, upgrader })
      } catch (error) {
        // The other side hangs up, or waits too, or what it says is noise; only another peer of the swarm can say plainly who it is.
        if (isConnected && !/peer|identity/i.test((error as Error).message)) throw new Error(NO_HANDSHAKE, { cause: error })
        throw error
      } finally {
        clearTimeout(timer)
      }
    }
    const createListener = transport.createListener.bind(transport)
    transport.createListener = (options) => {
      const listener = createListener(options)
      const { server } = listener as unknown as { readonly server: Server }
      server.prependListener('connection', (socket) => {
        const [host, zone] = (socket.remoteAddress ?? '').split('%')
        if (zone !== undefined) Object.defineProperty(socket, 'remoteAddress', { value: host })
      })
      return listener
    }
    return transport
  }
}

function zonedHost(address: Multiaddr): { host?: string } {
  const [zone, host] = address.getComponents()
  return zone?.name === 'ip6zone' && host?.name === 'ip6' ? { host: `${host.value}%${zone.value}` } : {}
}
