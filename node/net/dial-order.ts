import type { Address, AddressSorter } from '@libp2p/interface'
import { circuitRelayAddressesLast, loopbackAddressLast, publicAddressesFirst, reliableTransportsFirst } from '@libp2p/utils'
import type { Multiaddr } from '@multiformats/multiaddr'
import { linkKind } from './link-kind.ts'

/**
 * The order in which a peer's addresses are dialled, one after the other: libp2p's, but QUIC ones last of their kind of host. TCP costs
 * less; and where a firewall keeps TCP out, waiting for QUIC too would leave no time for the relay, from which better links are found.
 */
export function byDialOrder(first: Address, second: Address): ReturnType<AddressSorter> {
  const [a, b] = [first.multiaddr, second.multiaddr]
  return (
    loopbackAddressLast(a, b) ||
    publicAddressesFirst(a, b) ||
    trueLast(isQuic(a), isQuic(b)) ||
    circuitRelayAddressesLast(a, b) ||
    trueLast(!first.isCertified, !second.isCertified) ||
    reliableTransportsFirst(a, b)
  )
}

/** Whether QUIC is what reaches the peer itself. */
export function isQuic(address: Multiaddr): boolean {
  return linkKind({ remoteAddr: address }) === 'quic'
}

function trueLast(a: boolean, b: boolean): -1 | 0 | 1 {
  return a === b ? 0 : a ? 1 : -1
}
