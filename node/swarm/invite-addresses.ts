import type { Multiaddr } from '@multiformats/multiaddr'
import { hostOf, isPrivateHost } from '../net/operator.ts'

/** An invite carries few addresses: those that most newcomers can use first, one of this machine alone last. */
export function inviteAddresses(addresses: readonly Multiaddr[]): Multiaddr[] {
  return [...addresses].sort((a, b) => rank(a) - rank(b))
}

function rank(address: Multiaddr): number {
  const components = address.getComponents()
  const host = hostOf(address)
  const isLocal = host !== null && (host.startsWith('127.') || host === '::1')
  const isPublic = host === null || !isPrivateHost(host)
  const isRelayed = components.some(({ name }) => name === 'p2p-circuit')
  const isTcp = components.some(({ name }) => name === 'tcp')
  return (isLocal ? 8 : isPublic ? (isRelayed ? 2 : 0) : 4) + (isTcp ? 0 : 1)
}
