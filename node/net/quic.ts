import { networkInterfaces } from 'node:os'
import type { ComponentLogger, Connection, Listener, Metrics, PrivateKey, Transport, Upgrader } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'

export interface QuicComponents {
  readonly privateKey: PrivateKey
  readonly logger: ComponentLogger
  readonly upgrader: Upgrader
  readonly metrics?: Metrics
}

/** What every QUIC connection of a node has in common. */
export const QUIC_OPTIONS = Object.freeze({
  /** Holds the mappings of routers, which forget UDP after 30 s and more. */
  keepAliveInterval: 15_000,
  /** Two keep-alives may be lost. */
  maxIdleTimeout: 40_000,
  maxConcurrentStreamLimit: 1_024,
})

/** Loads QUIC as a transport to listen and dial with. Rejects where its native library does not run. */
export async function loadQuic(): Promise<(components: QuicComponents) => Transport> {
  const { quic } = await import('@chainsafe/libp2p-quic')
  return (components) => mended(quic(QUIC_OPTIONS)(components as Parameters<ReturnType<typeof quic>>[0]))
}

/**
 * `@chainsafe/libp2p-quic` 2.1.1 goes on with a dial after its signal, so that an address behind a firewall uses up the time of those that
 * come after it; and it tells the addresses that the machine had when the library was loaded, with link-local ones that need a zone.
 */
function mended(transport: Transport): Transport {
  const dial = transport.dial.bind(transport)
  transport.dial = async (address, options) => await untilAborted(dial(address, options), options.signal)
  const createListener = transport.createListener.bind(transport)
  transport.createListener = (options) => {
    const listener: Listener = createListener(options)
    const getAddrs = listener.getAddrs.bind(listener)
    let wildcard: 4 | 6 | null = null
    const listen = listener.listen.bind(listener)
    listener.listen = async (address) => {
      await listen(address)
      const host = address.getComponents()[0]!.value
      wildcard = host === '0.0.0.0' ? 4 : host === '::' ? 6 : null
    }
    listener.getAddrs = () => {
      const told = getAddrs()
      const port = told[0]?.getComponents().find(({ name }) => name === 'udp')?.value
      return wildcard === null || port === undefined ? told : hostsOf(wildcard).map((host) => quicAddress(wildcard!, host, port))
    }
    return listener
  }
  return transport
}

async function untilAborted(dialling: Promise<Connection>, signal: AbortSignal): Promise<Connection> {
  const { promise, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => {
    reject(signal.reason as Error)
    // Nobody waits for it any more.
    dialling.then(
      (connection) => connection.abort(signal.reason as Error),
      () => {},
    )
  }
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([dialling, promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

function hostsOf(family: 4 | 6): string[] {
  return Object.values(networkInterfaces()).flatMap((entries = []) =>
    entries.filter((entry) => entry.family === `IPv${family}` && !entry.address.startsWith('fe80:')).map(({ address }) => address),
  )
}

function quicAddress(family: 4 | 6, host: string, port: string): Multiaddr {
  return multiaddr(`/ip${family}/${host}/udp/${port}/quic-v1`)
}
