import type { Connection, PeerId } from '@libp2p/interface'
import { linkKind } from '../link-kind.ts'
import type { LinkKind } from '../link-kind.ts'
import type { Mesh } from '../mesh.ts'

/** A connection that is about to come. */
export interface Coming {
  readonly peer: PeerId
  readonly kind: LinkKind
  /** Those that were there before: one that its other end has left must not pass for the one that comes. */
  readonly before: ReadonlySet<Connection>
}

/** The connection, if it has come. */
export function newConnection(mesh: Pick<Mesh, 'getConnections'>, { peer, kind, before }: Coming): Connection | undefined {
  return mesh
    .getConnections(peer)
    .find((connection) => connection.status === 'open' && linkKind(connection) === kind && !before.has(connection))
}

/** Resolves with the connection once it comes, with undefined when `signal` fires first. */
export async function awaitConnection(
  mesh: Pick<Mesh, 'getConnections' | 'addEventListener' | 'removeEventListener'>,
  coming: Coming,
  signal: AbortSignal,
): Promise<Connection | undefined> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const onOpen = (): void => {
    if (newConnection(mesh, coming) !== undefined) resolve()
  }
  const onAbort = (): void => resolve()
  mesh.addEventListener('connection:open', onOpen)
  signal.addEventListener('abort', onAbort, { once: true })
  onOpen()
  await promise
  mesh.removeEventListener('connection:open', onOpen)
  signal.removeEventListener('abort', onAbort)
  return newConnection(mesh, coming)
}
