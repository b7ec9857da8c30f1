import { createHash } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Connection } from '@libp2p/interface'
import { Registry } from 'prom-client'
import { createLedger, createLedgerReplication } from '../crdt/index.ts'
import { EXPERT_LIMITS, EXPERT_PROTOCOL } from '../protocols/expert/index.ts'
import { createApi } from './api/api.ts'
import { API_FILE } from './api/api-file.ts'
import type { Config } from './config.ts'
import { Completeness } from './driver/completeness.ts'
import { Dispatcher } from './driver/dispatcher.ts'
import { hostPrior } from './driver/host-prior.ts'
import { Driver } from './driver/driver.ts'
import { Experience } from './driver/experience.ts'
import { Holders } from './driver/holders.ts'
import { LinkKeeper } from './driver/link-keeper.ts'
import { RoutingCounts } from './driver/routing-counts.ts'
import { chooseDevice } from './engine/device.ts'
import { createEngine } from './engine/onnx-engine.ts'
import { expertMaps } from './expert-map.ts'
import { ExpertCache } from './host/expert-cache.ts'
import { ExpertHost } from './host/expert-host.ts'
import { expertStreams } from './host/expert-streams.ts'
import { Handover } from './host/handover.ts'
import { HoldingsService, MAX_MANIFEST_BYTES, shardsOf } from './host/holdings-service.ts'
import { Hosting } from './host/hosting.ts'
import type { HeldModel } from './host/hosting.ts'
import { OtherHosts } from './host/other-hosts.ts'
import { PlacementKeeper } from './host/placement-keeper.ts'
import { LedgerPublisher } from './ledger-publisher.ts'
import { inLanes } from './in-lanes.ts'
import { Lifecycle } from './lifecycle.ts'
import { Log } from './log.ts'
import { createBlobStore } from './model/blob-store.ts'
import { registerNodeMetrics } from './metrics.ts'
import { DirectDialer } from './net/direct-dialer.ts'
import { ExpertLinks } from './net/expert-links.ts'
import { Greeter } from './net/greeter.ts'
import { LinkWatch } from './net/link-watch.ts'
import { loadIdentity } from './net/identity.ts'
import { usableListen } from './net/listen-addresses.ts'
import { Liveness } from './net/liveness.ts'
import { createMesh, startMesh } from './net/mesh.ts'
import { openMeshDatastore } from './net/mesh-datastore.ts'
import { PunchKeeper } from './net/punch/punch-keeper.ts'
import { Puncher } from './net/punch/puncher.ts'
import { NetworkReporter } from './net/network-report.ts'
import { ProviderRecords } from './net/provider-records.ts'
import { Rejoiner } from './net/rejoiner.ts'
import { Relaying } from './net/relaying.ts'
import { RoutingTableKeeper } from './net/routing-table-keeper.ts'
import type { DhtTable } from './net/routing-table-keeper.ts'
import { routingOf } from './net/swarm-dht.ts'
import { repeat } from './repeat.ts'
import { CostModel } from './router/cost-model.ts'
import { LinkRates } from './router/link-rates.ts'
import { chooseShards } from './router/shard-choice.ts'
import { inviteAddresses } from './swarm/invite-addresses.ts'
import { openSwarmGate } from './swarm/swarm-gate.ts'
import { openServedModels } from './served-model.ts'
import { modelInfos, swarmStatus } from './swarm-status.ts'
import type { SwarmStatus } from './api/services.ts'
import type { QueryService } from './driver/query.ts'
import { BlobSources } from './transfer/blob-sources.ts'
import { BlobTransfer } from './transfer/blob-transfer.ts'
import { VERSION } from './version.ts'

/** A running node. */
export interface SkeinNode {
  readonly peer: string
  readonly addresses: readonly string[]
  /** Where the HTTP API listens. */
  readonly url: string
  readonly queries: QueryService
  status(): SwarmStatus
  /** A text with which others join the swarm; see {@link SwarmGate}. */
  invite(options: { expiresAt: number; uses: number }): Promise<string>
  /** Waits, before {@link stop}, for others to take up what only this node serves: at most as long as was configured, and until the signal. */
  leave(signal: AbortSignal): Promise<void>
  /** Says goodbye to the swarm and undoes everything in reverse; idempotent, never throws. */
  stop(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Queued jobs beyond the workers, so that a worker never waits for the main thread. */
const SPARE_JOBS = 1
/** One is hashed while another is opened. */
const SHARDS_AT_ONCE = 2
/** How often hosts of what is missing are looked for. */
const SEEK_INTERVAL_MS = 2_000

/**
 * Starts everything, in the order in which one part needs another. Throws `ConfigError`, `ModelError` or `ModelMissingError`, after
 * undoing what had been started.
 *
 * @example
 * await using node = await startNode(loadConfig({ data: '/tmp/a', host: 'all' }, {}))
 */
export async function startNode(config: Config, signal: AbortSignal = new AbortController().signal): Promise<SkeinNode> {
  const log = new Log(config.logLevel)
  const info = log.info.bind(log)
  const debug = log.debug.bind(log)
  const startedAt = performance.now()
  const life = new Lifecycle((part, error) => log.error('stop.failed', { part, reason: error.message }))

  try {
    await mkdir(config.dataDir, { recursive: true })
    const privateKey = await loadIdentity(join(config.dataDir, 'identity.key'))
    const datastore = await openMeshDatastore(join(config.dataDir, 'libp2p'))
    life.onStop('datastore', () => datastore.close())
    const swarmGate = await openSwarmGate({
      dataDir: config.dataDir,
      swarm: config.swarm,
      isPrivate: config.isPrivate,
      privateKey,
      log: info,
    })
    const { gate } = swarmGate
    const { listen, leftOut } = config.isListenChosen ? { listen: config.listen, leftOut: [] } : await usableListen(config.listen)
    for (const { address, reason } of leftOut) info('listen.left_out', { address, reason })
    const mesh = await createMesh({
      privateKey,
      gate,
      onRefused: (peer, reason) => info('peer.refused', { peer, reason }),
      version: VERSION,
      listen,
      announce: config.announce,
      bootstrap: config.bootstrap,
      mdns: config.mdns,
      upnp: config.upnp,
      relayQuota: config.relay.quota,
      datastore,
    })
    life.onStop('mesh', () => mesh.stop())
    const self = mesh.peerId.toString()

    const { provider, refused } = await chooseDevice(config.device)
    for (const attempt of refused) log.error('device.refused', { device: attempt.provider, reason: attempt.reason, instead: provider })
    const warn = (reason: string): void => log.error('engine.warning', { reason })
    const engine = createEngine({ threads: config.threads, kv: config.kv, provider, onWarning: warn })
    life.onStop('engine', () => engine.close())
    const store = createBlobStore({ dir: config.storeDir })
    const models = await openServedModels(config.models, engine, store, {
      signal,
      // Whoever runs the node should know that its disk lost something.
      onDamage: (error) => log.error('model.repacked', { reason: error.message }),
    })
    const ownSeed = createHash('sha256').update(self).digest().readInt32LE()
    const host = new ExpertHost({ concurrency: config.threads + SPARE_JOBS })

    const ledger = createLedger(
      { privateKey },
      { swarm: gate.swarm.id, storeFile: join(config.dataDir, 'ledger.bin'), heatHalfLifeMs: config.heatHalfLifeMs },
    )
    const records = new ProviderRecords({
      routing: routingOf(mesh.services.dht),
      // A record of a node without addresses, as one is that waits for its first relay, would lead nobody to it.
      peers: () => (mesh.getMultiaddrs().length > 0 ? mesh.getPeers().length : 0),
      log: debug,
    })
    const rates = new LinkRates()
    const sources = new BlobSources({
      self,
      view: () => ledger.view(),
      isGone: (peer) => liveness.isGone(peer),
      records,
      bytesPerSecond: (peer) => rates.bytesPerSecond(peer),
    })
    const transfer = new BlobTransfer({ mesh, store, isBusy: () => host.isBusy || driver.active > 0, rates, log: info })
    const hosting = new Hosting({
      engine,
      host,
      store,
      fetch: async ({ id }, { cid, bytes, ...shard }, signal) => {
        const wanted = { cid, bytes, sources: () => sources.ofShard(id, { cid, bytes, ...shard }, signal), signal }
        if (await transfer.fetcher.fetch(wanted)) holdings.noteFetched(cid)
      },
      log: info,
    })
    life.onStop('hosting', () => hosting.stop())
    const liveness = new Liveness({ mesh, heardAt: (peer) => ledger.view().authors.get(peer)?.updatedAt ?? null, log: info })
    const others = new OtherHosts({
      self,
      view: () => ledger.view(),
      isGone: (peer) => liveness.isGone(peer),
      verify: (peers) => liveness.verify(peers),
    })
    const handover = new Handover({ hosting, others, log: info }, { timeoutMs: config.handoverMs })
    const holdings = new HoldingsService({
      self,
      hosting,
      store,
      view: () => ledger.view(),
      others,
      handover,
      fetchManifest: async (id, signal) => {
        const wanted = { cid: id, bytes: null, maxBytes: MAX_MANIFEST_BYTES, sources: () => sources.ofModel(id, signal), signal }
        await transfer.fetcher.fetch(wanted)
      },
      file: join(config.dataDir, 'holdings.json'),
      log: info,
    })
    for (const model of models) {
      const held = await hosting.add(model.package)
      const shards = chooseShards(config.host, shardsOf(held), self)
      for await (const _ of inLanes(shards, SHARDS_AT_ONCE, (shard) => hosting.hold(held.id, shard, signal))) continue
    }
    await holdings.restore(config.host.kind === 'auto', signal)
    const experience = new Experience({ self })
    const costs = new CostModel(undefined, experience, rates)
    const links = new ExpertLinks({
      dialer: mesh,
      onChange: (peer, open, detail) => info(open ? 'link.opened' : 'link.closed', { peer, [open ? 'by' : 'reason']: detail }),
    })
    life.onStop('links', () => links.stop())
    const holders = new Holders({
      self,
      view: () => ledger.view(),
      holdsLocally: (id, layer, expert) => hosting.isUsable(id, layer, expert),
      isLinked: (peer) => links.get(peer) !== undefined,
      linkChanges: () => links.changes,
    })
    const announcers = (id: string, layer: number, expert: number): string[] =>
      ledger
        .view()
        .holders(id, layer, expert)
        .filter((peer) => peer !== self && !liveness.isGone(peer))
    const keeper = new LinkKeeper(
      {
        links,
        holders,
        costs,
        records,
        announcers,
        onUnreachable: (peer) => void liveness.verify([peer]),
        log: info,
      },
      models,
    )
    const completeness = new Completeness({ holders, announcers, discover: (...args) => keeper.discover(...args) })
    const counts = new RoutingCounts()
    const dispatcher = new Dispatcher({
      self,
      links,
      host,
      holders,
      costs,
      tieSeed: ownSeed,
      discover: (...args) => keeper.discover(...args),
      isCached: (id, layer, expert) => hosting.isCached(id, layer, expert),
      ownExperts: (id) => hosting.ownExperts(id),
      isAnnounced: (id, { layer, expert }) => announcers(id, layer, expert).length > 0,
      priorOf: (peer) => hostPrior(peer, ledger.view(), experience),
    })
    const cache = new ExpertCache({ hosting, log: info }, { budgetBytes: config.cacheBytes, wire: config.wire })
    if (config.cacheBytes > 0) {
      await life.start('cache', cache)
    }
    const noted: Pick<RoutingCounts, 'add'> = {
      add: (id, layer, chosen, rows) => {
        counts.add(id, layer, chosen, rows)
        if (config.cacheBytes > 0) cache.used(id, layer, chosen)
      },
    }
    const driver = new Driver({ dispatcher, counts: noted, completeness }, models, { wire: config.wire, combine: config.combine })
    life.onStop('driver', () => driver.stop())

    await mesh.handle(EXPERT_PROTOCOL, expertStreams(host, info), {
      maxInboundStreams: EXPERT_LIMITS.maxStreamsPerPeer,
      runOnLimitedConnection: true,
    })
    await life.start('transfer', transfer)
    await life.start('ledger', ledger)
    for (const { id, manifest } of models) counts.open(id, manifest.config.layers, manifest.config.experts)
    const greeter = new Greeter({ mesh, log: debug })
    await life.start('greeter', greeter)
    const { isOn: mayPunch, ...punch } = config.punch
    const puncher = mayPunch ? new Puncher({ mesh, parts: mesh.services.parts, ...punch, log: info }) : null
    if (puncher !== null) {
      await life.start('puncher', puncher)
      const punchKeeper = new PunchKeeper({ mesh, puncher, log: info })
      await life.start('punch keeper', punchKeeper)
    }
    const directDialer = new DirectDialer({ mesh, log: info })
    await life.start('direct dialer', directDialer)
    await startMesh(mesh, listen)
    await life.start('records', records)
    const relaying = new Relaying({ mesh, records, log: info }, { mode: config.relay.mode, swarm: gate.swarm.id })
    await life.start('relaying', relaying)
    const watch = new LinkWatch({ mesh, onBadRelay: (relay) => relaying.leave(relay), log: info })
    await life.start('link watch', watch)
    await life.start('routing table', new RoutingTableKeeper({ mesh, dht: mesh.services.dht as unknown as DhtTable }))
    const rejoiner = new Rejoiner({ mesh, bootstrap: config.bootstrap, log: info })
    await life.start('rejoiner', rejoiner)
    const replication = createLedgerReplication({ ledger, libp2p: mesh, pubsub: mesh.services.pubsub })
    await life.start('replication', replication)
    life.onStop('drain', () => host.drain())
    life.onStop('goodbye', () => ledger.goodbye().then(() => {}))
    await life.start('liveness', liveness)
    const publisher = new LedgerPublisher({
      ledger,
      host,
      counts,
      experience,
      hosting,
      isRelayed: () => relaying.isRelayed(),
      config,
      log: info,
    })
    await life.start('publisher', publisher)
    await life.start('keeper', keeper)
    const onConnect = (event: CustomEvent<{ toString(): string }>): void => costs.forgive(event.detail.toString())
    mesh.addEventListener('peer:connect', onConnect)
    const onConnection = (event: CustomEvent<Connection>): void =>
      void keeper
        .connected(event.detail.remotePeer.toString())
        .catch((error: Error) => info('links.tick.failed', { reason: error.message }))
    mesh.addEventListener('connection:open', onConnection)
    const onChange = (): void => void keeper.tick().catch((error: Error) => info('links.tick.failed', { reason: error.message }))
    ledger.on('change', onChange)
    repeat(() => models.forEach((model) => completeness.seek(model)), {
      intervalMs: SEEK_INTERVAL_MS,
      signal: life.signal,
      onError: (error) => info('seek.failed', { reason: error.message }),
    })
    life.onStop('ledger events', () => void ledger.off('change', onChange))
    const announce = ({ id }: HeldModel): void => {
      const cids = hosting.shards(id, 'serving').map(({ cid }) => cid)
      records.announce(id, cids.length > 0 ? [id, ...cids] : [])
    }
    for (const model of hosting.models) announce(model)
    hosting.onChange = (model) => {
      publisher.publishHoldings()
      announce(model)
    }

    const placement = new PlacementKeeper(
      { view: () => ledger.view(), hosting, others, handover, holdings, isRelayed: () => relaying.isRelayed(), log: info },
      { ...config.budget, seed: ownSeed },
    )
    if (config.host.kind === 'auto') await life.start('placement', placement)

    const metrics = new Registry()
    const status = (): SwarmStatus =>
      swarmStatus({ config, mesh, models, hosting, view: () => ledger.view(), links, costs, holders, relaying, startedAt })
    registerNodeMetrics(metrics, { host, links, driver, dispatcher, cache, status, ledger })
    const invite = (options: { expiresAt: number; uses: number }): Promise<string> =>
      swarmGate.invite({ ...options, addresses: inviteAddresses(mesh.getMultiaddrs()) })
    const reporter = new NetworkReporter({
      mesh,
      rates,
      directDialer,
      isUpnpOn: config.upnp,
      leftOut,
      relaying,
      watch,
      rejoiner,
      puncher,
      members: () => new Map([...ledger.view().authors].map(([peer, { profile }]) => [peer, profile?.name ?? null])),
      swarm: () => ({ name: gate.swarm.name, isPrivate: gate.swarm.founder !== null, isAdmitted: !swarmGate.isWaitingForAdmission() }),
    })
    const api = createApi(
      {
        queries: driver,
        models: () => modelInfos({ models, holders }),
        swarm: status,
        experts: () => expertMaps({ models, view: ledger.view(), nowMs: Date.now() }),
        metrics,
        holdings,
        network: { peers: () => reporter.peers(), report: () => reporter.report(), invite },
      },
      { host: config.api.host, port: config.api.port, apiKey: config.api.key, log: info },
    )
    const { url } = await api.start()
    life.onStop('api', () => api.stop())
    const apiFile = join(config.dataDir, API_FILE)
    await writeFile(apiFile, JSON.stringify({ url, pid: process.pid }))
    life.onStop('api file', () => rm(apiFile, { force: true }))
    info('node.started', { peer: self, url, ms: Math.round(performance.now() - startedAt) })
    return {
      peer: self,
      addresses: mesh.getMultiaddrs().map((address) => address.toString()),
      url,
      queries: driver,
      status,
      invite,
      leave: async (signal) => {
        placement.stop()
        await handover.leave(signal)
      },
      stop: () => life.stop(),
      [Symbol.asyncDispose]: () => life.stop(),
    }
  } catch (error) {
    await life.stop()
    throw error
  }
}
