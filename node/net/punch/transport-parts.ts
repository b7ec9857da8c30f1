import type { ComponentLogger, PrivateKey, Upgrader } from '@libp2p/interface'
import type { TransportManager } from '@libp2p/interface-internal'
import { WebRtcTransport } from '../webrtc/transport.ts'

/** The parts of libp2p that a transport of our own needs; libp2p gives them to its services. */
export interface TransportParts {
  readonly upgrader: Upgrader
  readonly privateKey: PrivateKey
  readonly logger: ComponentLogger
  readonly webRtc: WebRtcTransport
}

type Components = Pick<TransportParts, 'upgrader' | 'privateKey' | 'logger'> & {
  readonly transportManager: Pick<TransportManager, 'getTransports'>
}

/** A libp2p service that is nothing but the parts of libp2p which it is given. */
export function transportParts(): (components: Components) => TransportParts {
  return ({ upgrader, privateKey, logger, transportManager }) => {
    const webRtc = transportManager.getTransports().find((transport) => transport instanceof WebRtcTransport)
    if (webRtc === undefined) throw new Error('the node has no WebRTC transport')
    return { upgrader, privateKey, logger, webRtc }
  }
}
