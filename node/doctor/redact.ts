/** An IPv4 address, or what looks like an IPv6 one, as in a multiaddr. */
const IPV4 = /\b(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\b/g
const IPV6 = /\/ip6\/([0-9a-f:]+)/gi
const PEER_ID = /\b12D3KooW[1-9A-HJ-NP-Za-km-z]{20,60}\b/g
const HOME = /\/(?:home|Users)\/[^/\s"]+/g

/** Makes text fit to be pasted in public: the end of a peer id, the beginning of an address, no user name. Loopback stays as it is. */
export function redact(text: string): string {
  return text
    .replaceAll(PEER_ID, (peer) => `…${peer.slice(-6)}`)
    .replaceAll(IPV4, (whole, a: string, b: string) => (a === '127' || whole === '0.0.0.0' ? whole : `${a}.${b}.x.x`))
    .replaceAll(IPV6, (whole, host: string) =>
      host === '::1' || host === '::' ? whole : `/ip6/${host.split(':').slice(0, 2).join(':')}:x`,
    )
    .replaceAll(HOME, '~')
}
