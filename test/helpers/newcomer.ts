import { createLedger } from '../../crdt/index.ts'
import { Completeness } from '../../node/driver/completeness.ts'
import { Dispatcher } from '../../node/driver/dispatcher.ts'
import { Driver } from '../../node/driver/driver.ts'
import { Holders } from '../../node/driver/holders.ts'
import { LinkKeeper } from '../../node/driver/link-keeper.ts'
import { RoutingCounts } from '../../node/driver/routing-counts.ts'
import { createEngine } from '../../node/engine/onnx-engine.ts'
import { ExpertHost } from '../../node/host/expert-host.ts'
import { ExpertLinks } from '../../node/net/expert-links.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ProviderRecords } from '../../node/net/provider-records.ts'
import { CostModel } from '../../node/router/cost-model.ts'
import { NO_PRIOR } from '../../node/router/host-estimate.ts'
import { routingOf } from '../../node/net/swarm-dht.ts'
import { openServedModels } from '../../node/served-model.ts'
import { startBarePeer } from './bare-peer.ts'
import type { BarePeer } from './bare-peer.ts'
import type { Teardown, TestSwarm } from './swarm.ts'

/** A driver made of its parts, so that a test can look at them. */
export interface Newcomer {
  readonly bare: BarePeer
  readonly keeper: LinkKeeper
  readonly queries: Driver
  readonly costs: CostModel
  readonly holders: Holders
  readonly links: ExpertLinks
  readonly records: ProviderRecords
  /** Provider records found per expert asked for. */
  readonly found: number[]
}

/** A driver that is connected to the nodes of the addresses, and whose ledger knows nobody because it is not replicated. */
export async function startNewcomer(
  t: Teardown,
  swarm: TestSwarm,
  connectTo: readonly string[],
  listen?: readonly string[],
): Promise<Newcomer> {
  const engine = createEngine({ threads: 1 })
  t.after(() => engine.close())
  const bare = await startBarePeer(t, { swarm: swarm.name, connectTo, ...(listen === undefined ? {} : { listen }) })
  const { mesh, peer: self, privateKey } = bare
  const ledger = createLedger({ privateKey }, { swarm: swarm.name })
  const models = await openServedModels(['ember'], engine, createBlobStore({ dir: swarm.storeDir }), {})
  const links = new ExpertLinks({ dialer: mesh, onChange: () => {} })
  t.after(() => links.stop())
  const holders = new Holders({
    self,
    view: () => ledger.view(),
    holdsLocally: () => false,
    isLinked: (peer) => links.get(peer) !== undefined,
    linkChanges: () => links.changes,
  })
  const costs = new CostModel()
  const found: number[] = []
  const log = (event: string, fields: Record<string, unknown>): void => {
    if (event === 'dht.found') found.push(Number(fields['providers']))
  }
  const records = new ProviderRecords({ routing: routingOf(mesh.services.dht), peers: () => mesh.getPeers().length, log })
  const keeper = new LinkKeeper({ links, holders, costs, records, announcers: () => [], onUnreachable: () => {}, log }, models)
  const dispatcher = new Dispatcher({
    self,
    links,
    host: new ExpertHost({ concurrency: 1 }),
    holders,
    costs,
    tieSeed: 0,
    discover: (...args) => keeper.discover(...args),
    isAnnounced: () => false,
    isCached: () => false,
    ownExperts: () => null,
    priorOf: () => NO_PRIOR,
  })
  const completeness = new Completeness({ holders, announcers: () => [], discover: (...args) => keeper.discover(...args) })
  const queries = new Driver({ dispatcher, counts: new RoutingCounts(), completeness }, models, { wire: 'f16', combine: 'host' })
  t.after(() => queries.stop())
  return { bare, keeper, queries, costs, holders, links, records, found }
}
