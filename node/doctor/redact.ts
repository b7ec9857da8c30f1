const IPV4 = /\b(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\b/g
/** What may be an IPv6 address, in a multiaddr or as errors of the system name it, perhaps with a port. */
const IPV6 = /(?<![\w:])[0-9a-f]{1,4}(?::[0-9a-f]{0,5}){2,8}/gi
const IPV6_GROUPS = 8
const PEER_ID = /\b12D3KooW[1-9A-HJ-NP-Za-km-z]{20,60}\b/g
const HOME = /\/(?:home|Users)\/[^/\s"]+/g

/** Makes text fit to be pasted in public: the end of a peer id, the beginning of an address, no user name. Loopback stays as it is. */
export function redact(text: string): string {
  return text
    .replaceAll(PEER_ID, (peer) => `…${peer.slice(-6)}`)
    .replaceAll(IPV4, (whole, a: string, b: string) => (a === '127' || whole === '0.0.0.0' ? whole : `${a}.${b}.x.x`))
    .replaceAll(IPV6, (whole) => {
      const groups = whole.split(':')
      // Times of day have colons too.
      const isAddress = whole.includes('::') || groups.length >= IPV6_GROUPS
      return isAddress ? `${groups.slice(0, 2).join(':')}:x` : whole
    })
    .replaceAll(HOME, '~')
}
