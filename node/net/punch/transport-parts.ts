import type { ComponentLogger, PrivateKey, Upgrader } from '@libp2p/interface'

/** The parts of libp2p that a transport of our own needs; libp2p gives them to its services. */
export interface TransportParts {
  readonly upgrader: Upgrader
  readonly privateKey: PrivateKey
  readonly logger: ComponentLogger
}

/** A libp2p service that is nothing but the parts of libp2p which it is given. */
export function transportParts(): (components: TransportParts) => TransportParts {
  return ({ upgrader, privateKey, logger }) => ({ upgrader, privateKey, logger })
}
