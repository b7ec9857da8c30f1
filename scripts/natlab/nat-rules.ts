/**
 * How a router treats UDP and TCP, in the words of RFC 4787:
 * - `open`: no router, the host has a public address;
 * - `full`: endpoint-independent mapping and filtering;
 * - `addr`: endpoint-independent mapping, address-dependent filtering;
 * - `port`: endpoint-independent mapping, address- and port-dependent filtering;
 * - `sym`: address- and port-dependent mapping and filtering.
 */
export type NatKind = 'open' | 'full' | 'addr' | 'port' | 'sym'

/** The four kinds of the matrix. */
export const NAT_KINDS = Object.freeze(['full', 'addr', 'port', 'sym'] as const)

export interface NatRulesInit {
  readonly kind: Exclude<NatKind, 'open'>
  /** The one host behind the router, which gets what an open port lets in. */
  readonly host: string
  /** Drops the LAN's UDP to anywhere, as some company networks do. */
  readonly blockUdp: boolean
}

/** Seconds for which an address-restricted router remembers whom the host has written to. */
const SEEN_SECONDS = 120

/** The nft ruleset of a router whose devices are called `lan` and `wan`. Pure. */
export function natRules({ kind, host, blockUdp }: NatRulesInit): string {
  const toHost = `meta l4proto { tcp, udp } dnat ip to ${host};`
  const prerouting = { full: `iifname wan ${toHost}`, addr: `iifname wan ip saddr @seen ${toHost}`, port: '', sym: '' }[kind]
  const remember = kind === 'addr' ? 'iifname lan oifname wan update @seen { ip daddr };' : ''
  const masquerade = kind === 'sym' ? 'masquerade fully-random' : 'masquerade'
  return `
table ip nat_lab {
  set seen { type ipv4_addr; flags dynamic,timeout; timeout ${SEEN_SECONDS}s; };
  chain prerouting { type nat hook prerouting priority -100; ${prerouting} };
  chain postrouting { type nat hook postrouting priority 100; oifname wan ${masquerade}; };
  chain forward {
    type filter hook forward priority 0;
    ${blockUdp ? 'iifname lan oifname wan meta l4proto udp drop;' : ''}
    ${remember}
    iifname wan oifname lan ct state established,related accept;
    iifname wan ct status dnat accept;
    iifname wan drop;
  }
  chain input { type filter hook input priority 0; iifname wan ct state established,related accept; iifname wan drop; };
}
`
}

/** The nft ruleset of a router that lets IPv6 through unchanged, inwards only answers. Pure. */
export function ipv6FirewallRules(): string {
  return `
table ip6 fw_lab {
  chain forward {
    type filter hook forward priority 0;
    iifname wan oifname lan ct state established,related accept;
    iifname wan meta l4proto icmpv6 accept;
    iifname wan drop;
  }
}
`
}
