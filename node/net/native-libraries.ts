import { quicFault } from './listen-addresses.ts'
import { missingLibrary } from './webrtc/library.ts'

/** A way to connect whose native part does not run on this machine. */
export interface MissingLibrary {
  readonly way: 'QUIC' | 'WebRTC'
  readonly reason: string
}

/** Which of the native libraries that come with npm are missing here; loads QUIC's. */
export async function missingLibraries(): Promise<MissingLibrary[]> {
  const [quic, webRtc] = [await quicFault(), missingLibrary()]
  return [
    ...(quic === null ? [] : [{ way: 'QUIC' as const, reason: quic }]),
    ...(webRtc === null ? [] : [{ way: 'WebRTC' as const, reason: webRtc }]),
  ]
}
