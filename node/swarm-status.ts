import { bitmapMembers } from '../crdt/index.ts'
import type { Connection } from '@libp2p/interface'
import type { LedgerView } from '../crdt/index.ts'
import type { ModelInfo, PeerStatus, SwarmStatus } from './api/services.ts'
import type { Config } from './config.ts'
import { bitmapsOf } from './host/hosting.ts'
import type { Hosting } from './host/hosting.ts'
import type { Candidate, Holders } from './driver/holders.ts'
import type { ExpertLinks } from './net/expert-links.ts'
import { expertLayers } from './model/model-config.ts'
import { bestConnection } from './net/link-kind.ts'
import type { Mesh } from './net/mesh.ts'
import type { Relaying } from './net/relaying.ts'
import { coverageOf, rangesOf } from './router/coverage.ts'
import type { CostModel } from './router/cost-model.ts'
import type { ServedModel } from './served-model.ts'
import { VERSION } from './version.ts'

export interface SwarmStatusComponents {
  readonly config: Config
  readonly mesh: Mesh
  readonly models: readonly ServedModel[]
  readonly hosting: Hosting
  readonly view: () => LedgerView
  readonly links: ExpertLinks
  readonly costs: CostModel
  readonly holders: Holders
  readonly relaying: Relaying
  /** When the node started, in `performance.now()` milliseconds. */
  readonly startedAt: number
}

/** What the HTTP face and the CLI show of the node and its swarm, made afresh at each call. */
export function swarmStatus(components: SwarmStatusComponents): SwarmStatus {
  const { config, mesh, models, hosting, view, startedAt } = components
  const infos = modelInfos(components)
  return {
    version: VERSION,
    swarm: config.swarm,
    peer: mesh.peerId.toString(),
    addresses: mesh.getMultiaddrs().map((address) => address.toString()),
    uptimeSeconds: Math.floor((performance.now() - startedAt) / 1000),
    ready: infos.every((info) => info.coverage.complete),
    models: infos,
    refused: [...mesh.services.membership.refusals()].map(([peer, reason]) => ({ peer, reason })),
    relay: components.relaying.status(),
    peers: peerStatuses(components),
    holdings: hosting.models.map(({ id, manifest }) => ({
      model: manifest.name,
      layers: bitmapsOf(manifest, hosting.shards(id, 'serving'))
        .map((bitmap, layer) => ({ layer, experts: rangesOf(bitmapMembers(bitmap)) }))
        .filter(({ experts }) => experts !== ''),
    })),
    routing: models.map((model) => {
      const { config: shape } = model.manifest
      const picks = view()
        .routed(model.id, shape.layers, shape.experts)
        .reduce((sum, count) => sum + count, 0)
      return { model: model.manifest.name, tokens: picks / shape.expertsPerToken / expertLayers(shape).length }
    }),
  }
}

/** The models driven here with their coverage by hosts that can be called now. */
export function modelInfos(components: Pick<SwarmStatusComponents, 'models' | 'holders'>): ModelInfo[] {
  return components.models.map((model) => {
    const { manifest } = model
    return {
      name: manifest.name,
      id: model.id,
      architecture: manifest.config.architecture,
      quant: manifest.quant.kind,
      createdAt: model.openedAt,
      maxContext: manifest.config.maxContext,
      coverage: coverageOf(manifest, replicasOf(components.holders.candidates(model.id))),
      expertBytes: manifest.blobs.reduce((sum, blob) => sum + (blob.role === 'experts' ? blob.bytes : 0), 0),
    }
  })
}

function replicasOf(candidates: readonly Candidate[]): (layer: number, expert: number) => number {
  return (layer, expert) => candidates.reduce((sum, candidate) => sum + (candidate.holds(layer, expert) ? 1 : 0), 0)
}

function peerStatuses({ mesh, view, links, costs }: SwarmStatusComponents): PeerStatus[] {
  const self = mesh.peerId.toString()
  const authors = view().authors
  const connections = new Map<string, Connection>()
  for (const connection of mesh.getConnections()) {
    const peer = connection.remotePeer.toString()
    const known = connections.get(peer)
    connections.set(peer, known === undefined ? connection : (bestConnection([known, connection]) ?? connection))
  }
  const peers = new Set([...authors.keys(), ...connections.keys()])
  peers.delete(self)
  return [...peers].sort().map((peer) => {
    const author = authors.get(peer)
    const { succeeded, failed, overheadUs } = costs.counts(peer)
    return {
      peer,
      name: author?.profile?.name ?? null,
      connected: links.get(peer) !== undefined || connections.has(peer),
      address: connections.get(peer)?.remoteAddr.toString() ?? null,
      rttMs: overheadUs === null ? null : Math.round(overheadUs / 10) / 100,
      experts: [...(author?.holdings?.values() ?? [])].reduce(
        (sum, bitmaps) => sum + bitmaps.reduce((bits, bitmap) => bits + countBits(bitmap), 0),
        0,
      ),
      callsSent: succeeded + failed,
      callsFailed: failed,
      ledgerAgeSeconds: author === undefined ? null : Math.max(0, Math.round((Date.now() - author.updatedAt) / 1000)),
      backoffMs: Math.round(costs.backoffMs(peer)),
    }
  })
}

function countBits(bitmap: Uint8Array): number {
  let bits = 0
  for (let byte of bitmap) for (; byte !== 0; byte >>= 1) bits += byte & 1
  return bits
}
