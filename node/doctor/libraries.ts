import type { MissingLibrary } from '../net/native-libraries.ts'
import { note, ok } from './finding.ts'
import type { Finding } from './finding.ts'

/** What it means for this node that native libraries are there, or not. Pure. */
export function libraryFindings(missing: readonly MissingLibrary[]): Finding[] {
  if (missing.length === 0) return [ok('QUIC and WebRTC run on this machine')]
  return missing.map(({ way, reason }) =>
    note(
      `${way} does not run on this machine: ${reason}`,
      `run "npm ci" in Skein's folder, without --omit=optional; where no binary is made for this system fewer routers can be passed, ${
        missing.length === 2 ? 'over TCP only' : `without ${way}`
      }`,
    ),
  )
}
