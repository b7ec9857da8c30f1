import type { Startable } from '@libp2p/interface'
import type { AddressManager } from '@libp2p/interface-internal'
import { uPnPNAT } from '@libp2p/upnp-nat'
import type { UPnPNATComponents } from '@libp2p/upnp-nat'

/** What the routers on this network do for this node when asked (UPnP). */
export interface PortMappingStatus {
  /** Routers that answered, by address. */
  readonly routers: readonly string[]
  /** Public addresses that they forward, and whether AutoNAT has confirmed each. */
  readonly mapped: readonly { readonly address: string; readonly isConfirmed: boolean }[]
}

/** The inside of `@libp2p/upnp-nat` 4.0.28's service that tells which routers it found. */
interface UpnpInside extends Startable {
  readonly portMappers: readonly { readonly gateway: { readonly host: string } }[]
}

/** libp2p's UPnP service, and what came of it. */
export class PortMapping {
  readonly #upnp: UpnpInside
  readonly #addresses: Pick<AddressManager, 'getAddressesWithMetadata'>

  constructor(components: UPnPNATComponents) {
    this.#upnp = uPnPNAT()(components) as unknown as UpnpInside
    this.#addresses = components.addressManager
  }

  /** Called by libp2p. */
  async start(): Promise<void> {
    await this.#upnp.start()
  }

  async stop(): Promise<void> {
    await this.#upnp.stop()
  }

  status(): PortMappingStatus {
    const mapped = this.#addresses.getAddressesWithMetadata().filter(({ type }) => type === 'ip-mapping')
    return {
      routers: [...new Set(this.#upnp.portMappers.map(({ gateway }) => gateway.host))],
      mapped: mapped.map(({ multiaddr, verified }) => ({ address: multiaddr.toString(), isConfirmed: verified })),
    }
  }
}
