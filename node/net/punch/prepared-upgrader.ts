import type { MultiaddrConnection, Upgrader } from '@libp2p/interface'

/** What is done to a raw connection before libp2p upgrades it; what it throws refuses the connection. */
export interface Preparation {
  readonly outbound?: (connection: MultiaddrConnection) => void
  readonly inbound?: (connection: MultiaddrConnection) => void
}

/** libp2p's upgrader, with raw connections prepared. */
export function preparedUpgrader(upgrader: Upgrader, { outbound, inbound }: Preparation): Upgrader {
  return {
    getConnectionEncrypters: () => upgrader.getConnectionEncrypters(),
    getStreamMuxers: () => upgrader.getStreamMuxers(),
    createInboundAbortSignal: (signal) => upgrader.createInboundAbortSignal(signal),
    upgradeOutbound: async (connection: MultiaddrConnection, options: never) => {
      outbound?.(connection)
      return await upgrader.upgradeOutbound(connection, options)
    },
    upgradeInbound: async (connection: MultiaddrConnection, options: never) => {
      inbound?.(connection)
      await upgrader.upgradeInbound(connection, options)
    },
  }
}
