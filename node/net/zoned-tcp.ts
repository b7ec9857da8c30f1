import type { Server } from 'node:net'
import type { Transport } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import type { TCPComponents } from '@libp2p/tcp'
import type { Multiaddr } from '@multiformats/multiaddr'

/**
 * TCP that also works over link-local IPv6, whose addresses (fe80::/10) mean something on one network interface only: `@libp2p/tcp` 11.0.28
 * leaves the zone out when it dials `/ip6zone/<interface>/ip6/...`, and drops connections that come from such an address.
 */
export function zonedTcp(): (components: TCPComponents) => Transport {
  const create = tcp()
  return (components) => {
    const transport = create(components)
    const dial = transport.dial.bind(transport)
    // What libp2p passes to a dial goes on to `net.connect`, past what the transport has read from the address.
    transport.dial = async (address, options) => await dial(address, { ...options, ...zonedHost(address) })
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
