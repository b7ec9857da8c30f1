import { isIPv4 } from 'node:net'
import type { Multiaddr } from '@multiformats/multiaddr'

/** IPv4 networks are handed out in blocks of about this size, IPv6 ones to a site or a provider. */
const IPV4_OCTETS = 2
const IPV6_GROUPS = 2

/**
 * Who presumably runs the machine at the address: its /16 (IPv4) or /32 (IPv6). Machines of one operator tend to fail together. Private
 * and local addresses say nothing of that, so there each `peer` counts as an operator of its own.
 */
export function operatorOf(address: Multiaddr, peer: string): string {
  const host = hostOf(address)
  if (host === null || isPrivateHost(host)) return peer
  return isIPv4(host) ? host.split('.').slice(0, IPV4_OCTETS).join('.') : expandIpv6(host).slice(0, IPV6_GROUPS).join(':')
}

/** The IP address in a multiaddr; null when it names none. */
export function hostOf(address: Multiaddr): string | null {
  return address.getComponents().find(({ name }) => name === 'ip4' || name === 'ip6')?.value ?? null
}

/** Whether no one outside of the machine's own network can reach the IP address. */
export function isPrivateHost(host: string): boolean {
  if (isIPv4(host)) {
    const [a, b] = host.split('.').map(Number) as [number, number]
    if (a === 10 || a === 127 || a === 0 || a >= 224) return true
    // 100.64.0.0/10 is what carriers put their customers behind.
    return (a === 192 && b === 168) || (a === 172 && b >= 16 && b < 32) || (a === 169 && b === 254) || (a === 100 && b >= 64 && b < 128)
  }
  // Only 2000::/3 is routed between networks; 2001:db8::/32 is for documentation, and labs use it as if it were not.
  const first = Number.parseInt(expandIpv6(host)[0]!, 16)
  return (first & 0xe000) !== 0x2000
}

/** The eight groups of an IPv6 address, the zone left out. */
function expandIpv6(host: string): string[] {
  const [head, tail] = host.split('%')[0]!.split('::') as [string, string?]
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length)
  return [...left, ...Array.from({ length: zeros }, () => '0'), ...right]
}
