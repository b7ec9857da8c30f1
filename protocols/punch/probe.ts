import { TOKEN_BYTES } from './protocol.ts'

/** First bytes of a probe. STUN begins with 0-3; QUIC may begin with anything (RFC 9287) and is told by not being one of the two. */
const MAGIC = [0x13, 0x53, 0x4b, 0x50] as const
const PROBE_BYTES = MAGIC.length + 1 + TOKEN_BYTES

/** `call` asks for an `echo`; an echo proves that both directions pass. */
export type ProbeKind = 'call' | 'echo'

export function encodeProbe(kind: ProbeKind, token: Uint8Array): Uint8Array {
  return Uint8Array.from([...MAGIC, kind === 'call' ? 1 : 2, ...token])
}

/** The kind and the token, in hexadecimal; null for anything else. */
export function probeOf(packet: Uint8Array): { readonly kind: ProbeKind; readonly token: string } | null {
  if (packet.length !== PROBE_BYTES || MAGIC.some((byte, i) => packet[i] !== byte)) return null
  const kind = packet[MAGIC.length]
  if (kind !== 1 && kind !== 2) return null
  return { kind: kind === 1 ? 'call' : 'echo', token: Buffer.from(packet.subarray(MAGIC.length + 1)).toString('hex') }
}
