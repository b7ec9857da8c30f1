import { createRequire } from 'node:module'
import type { webRTC } from '@libp2p/webrtc'
import { holdCandidates, refuseText } from './mends.ts'

/** How packages of prebuilt binaries end after platform and architecture, as in `@node-datachannel/linux-x64-gnu`. */
const ENDINGS = ['', '-gnu', '-musl', '-msvc']

/** Why WebRTC can't be used on this machine; null when its native part is installed. Loads nothing. */
export function missingLibrary(): string | null {
  const name = `@node-datachannel/${process.platform}-${process.arch}`
  const require = createRequire(import.meta.url)
  try {
    const { resolve } = createRequire(require.resolve('node-datachannel'))
    if (ENDINGS.some((ending) => isInstalled(resolve, `${name}${ending}`))) return null
    return `${name} is not installed: it has no prebuilt binary, or npm ran with --omit=optional`
  } catch (error) {
    return (error as Error).message
  }
}

function isInstalled(resolve: NodeJS.RequireResolve, name: string): boolean {
  try {
    resolve(name)
    return true
  } catch {
    return false
  }
}

let users = 0
let isMended = false

/**
 * Loads the library, which takes a tenth of a second and 20 MB; each use ends with {@link releaseLibrary}. Rejects where
 * {@link missingLibrary} gives a reason, and where the native part does not fit the system.
 */
export async function useLibrary(): Promise<typeof webRTC> {
  const [{ webRTC }, polyfill] = await Promise.all([import('@libp2p/webrtc'), import('node-datachannel/polyfill')])
  users++
  if (isMended) return webRTC
  isMended = true
  refuseText(polyfill.RTCDataChannel.prototype)
  holdCandidates(polyfill.RTCPeerConnection.prototype)
  return webRTC
}

/** After the last use in this process, ends the native part's threads, which would keep the process alive. */
export async function releaseLibrary(): Promise<void> {
  const { cleanup } = await import('node-datachannel')
  if (--users === 0) cleanup()
}
