import { TopicValidatorResult } from '@libp2p/gossipsub'
import type { GossipSub, Message } from '@libp2p/gossipsub'
import type { Connection, Libp2p, PeerId } from '@libp2p/interface'
import { ID, LIMITS, createLedgerClient, createLedgerHandler, gossipTopic } from '../protocols/ledger/index.ts'
import type { LedgerAccess, LedgerClient, Verdict } from '../protocols/ledger/index.ts'
import type { Ledger } from './ledger-contract.ts'
import { PeerBudget } from './peer-budget.ts'
import { isFaulty } from './rejection.ts'

export interface LedgerReplicationComponents {
  readonly ledger: Ledger
  readonly libp2p: Pick<Libp2p, 'handle' | 'unhandle' | 'register' | 'unregister' | 'dialProtocol' | 'getConnections' | 'peerStore'>
  readonly pubsub: Pick<GossipSub, 'topicValidators' | 'subscribe' | 'unsubscribe' | 'publish'>
  /** From 0 to 1; chooses the peer of the next sync. */
  readonly random?: () => number
}

export interface LedgerReplicationInit {
  /** Between two syncs with a random peer, give or take a quarter. */
  readonly syncIntervalMs?: number
  /** Of one sync. */
  readonly syncTimeoutMs?: number
}

export interface ReplicationStats {
  readonly syncs: number
  readonly syncFailures: number
  readonly syncsServed: number
  /** Envelopes not looked at, because their forwarder had sent too many or too many faulty ones. */
  readonly ignored: number
  readonly publishFailures: number
  /** Connected peers that speak the ledger protocol. */
  readonly peers: number
}

export interface LedgerReplication {
  /** The libp2p node is started, and has `identifyPush`, so that peers connected already learn of the protocol. */
  start(): Promise<void>
  /** Waits for what is being published, ends what is being synchronised. */
  stop(): Promise<void>
  /** Synchronises with one peer now. Throws as `LedgerClient.sync` does. */
  sync(peer: PeerId, options?: { signal?: AbortSignal }): Promise<void>
  stats(): ReplicationStats
}

const DEFAULTS = Object.freeze({
  /** Gossip loses little; this finds what it lost. */
  syncIntervalMs: 30_000,
})

/** The sync interval is stretched by this for every author, since a digest names all of them: 800 s and 20 KB at 1,000. */
export const SYNC_AUTHOR_MS = 800

/** Syncs that this node runs at the same time; newly connected peers wait their turn. */
const MAX_PARALLEL_SYNCS = 3

/** Envelopes of which it is remembered that they went through gossip once: some minutes of a large swarm. */
const MAX_REMEMBERED = 4096

/** Longest wait of `stop` for a publication under way. */
const PUBLISH_DRAIN_MS = 2_000

/** Spreads a ledger over a libp2p node: gossip for what is new, syncs with connected peers for what was missed. */
export function createLedgerReplication(components: LedgerReplicationComponents, init: LedgerReplicationInit = {}): LedgerReplication {
  return new GossipReplication(components, init)
}

class GossipReplication implements LedgerReplication {
  readonly #components: LedgerReplicationComponents
  readonly #init: LedgerReplicationInit
  readonly #random: () => number
  readonly #topic: string
  readonly #client: LedgerClient
  readonly #budget = new PeerBudget()
  readonly #counts = { syncs: 0, syncFailures: 0, syncsServed: 0, ignored: 0, publishFailures: 0 }
  /** Connected peers that speak the protocol. */
  readonly #peers = new Map<string, PeerId>()
  /** Newly connected peers that wait for their first sync. */
  readonly #waiting = new Set<string>()
  readonly #syncing = new Map<string, Promise<void>>()
  readonly #publishing = new Set<Promise<void>>()
  /** Signatures of envelopes that were forwarded by gossip; first in, first out. */
  readonly #forwarded = new Set<string>()
  #stopping: AbortController | null = null
  #topologyId: string | null = null
  #timer: NodeJS.Timeout | null = null

  constructor(components: LedgerReplicationComponents, init: LedgerReplicationInit) {
    this.#components = components
    this.#init = init
    this.#random = components.random ?? Math.random
    this.#topic = gossipTopic(components.ledger.swarm)
    this.#client = createLedgerClient(
      {
        access: this.#access(),
        openStream: async (peer, protocol, { signal }) => {
          const peerId = this.#peers.get(peer)
          if (peerId === undefined) throw new Error(`${peer} is not connected`)
          return await components.libp2p.dialProtocol(peerId, protocol, { signal, runOnLimitedConnection: true })
        },
      },
      init.syncTimeoutMs === undefined ? {} : { syncTimeoutMs: init.syncTimeoutMs },
    )
  }

  async start(): Promise<void> {
    if (this.#stopping !== null) return
    const stopping = new AbortController()
    this.#stopping = stopping
    const { ledger, libp2p, pubsub } = this.#components
    const { syncTimeoutMs } = this.#init
    const handler = createLedgerHandler(
      { access: this.#access() },
      { signal: stopping.signal, ...(syncTimeoutMs === undefined ? {} : { syncTimeoutMs }) },
    )
    await libp2p.handle(
      ID,
      async (stream, connection) => {
        if ((await handler.handle(stream, connection)) !== null) this.#counts.syncsServed++
      },
      { maxInboundStreams: LIMITS.maxInboundStreams, runOnLimitedConnection: true },
    )
    this.#topologyId = await libp2p.register(ID, {
      notifyOnLimitedConnection: true,
      onConnect: (peer, connection) => this.#connected(peer, connection),
      onDisconnect: (peer) => this.#disconnected(peer),
    })
    pubsub.topicValidators.set(this.#topic, (peer, message) => this.#validate(peer, message))
    pubsub.subscribe(this.#topic)
    ledger.on('publish', this.#publish)
    await this.#meetConnected()
    this.#arm()
  }

  async stop(): Promise<void> {
    const stopping = this.#stopping
    if (stopping === null) return
    const { ledger, libp2p, pubsub } = this.#components
    this.#stopping = null
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    ledger.off('publish', this.#publish)
    stopping.abort(new Error('the ledger replication stops'))
    let drained: NodeJS.Timeout | undefined
    const deadline = new Promise<void>((resolve) => (drained = setTimeout(resolve, PUBLISH_DRAIN_MS)))
    await Promise.race([Promise.allSettled([...this.#publishing, ...this.#syncing.values()]), deadline])
    clearTimeout(drained)
    try {
      pubsub.unsubscribe(this.#topic)
    } catch {
      // Gossip was stopped first, and all subscriptions with it.
    }
    pubsub.topicValidators.delete(this.#topic)
    if (this.#topologyId !== null) libp2p.unregister(this.#topologyId)
    this.#topologyId = null
    this.#peers.clear()
    this.#waiting.clear()
    await libp2p.unhandle(ID)
  }

  async sync(peer: PeerId, options: { signal?: AbortSignal } = {}): Promise<void> {
    const stopping = this.#stopping
    if (stopping === null) throw new Error('the ledger replication is not started')
    const key = peer.toString()
    this.#peers.set(key, this.#peers.get(key) ?? peer)
    const signal = options.signal === undefined ? stopping.signal : AbortSignal.any([options.signal, stopping.signal])
    const syncing = this.#client.sync(key, { signal }).then(() => {})
    this.#syncing.set(key, syncing)
    try {
      await syncing
      this.#counts.syncs++
    } catch (error) {
      this.#counts.syncFailures++
      throw error
    } finally {
      this.#syncing.delete(key)
    }
  }

  stats(): ReplicationStats {
    return { ...this.#counts, peers: this.#peers.size }
  }

  #access(): LedgerAccess {
    const { ledger } = this.#components
    return {
      swarm: ledger.swarm,
      digest: () => ledger.digest(),
      missing: (digest) => ledger.missing(digest),
      receive: async (envelope, peer): Promise<Verdict> => {
        if (!this.#budget.spend(peer)) {
          this.#counts.ignored++
          return 'ignored'
        }
        const result = await ledger.receive(envelope)
        if (result === 'applied') return 'applied'
        if (result === 'known' || !isFaulty(result.rejected)) return 'ignored'
        this.#budget.fault(peer)
        return 'invalid'
      },
    }
  }

  /** Decides what becomes of a gossiped envelope: forward and deliver, drop, or drop and blame whoever forwarded it. */
  async #validate(peer: PeerId, message: Message): Promise<TopicValidatorResult> {
    const forwarder = peer.toString()
    if (!this.#budget.spend(forwarder)) {
      this.#counts.ignored++
      return TopicValidatorResult.Ignore
    }
    const { data } = message
    const result = await this.#components.ledger.receive(data)
    if (result === 'applied') {
      this.#isFirst(data)
      return TopicValidatorResult.Accept
    }
    // A sync may have brought it before gossip did: others behind this node still want it, but only once.
    if (result === 'known') return this.#isFirst(data) ? TopicValidatorResult.Accept : TopicValidatorResult.Ignore
    if (!isFaulty(result.rejected)) return TopicValidatorResult.Ignore
    this.#budget.fault(forwarder)
    return TopicValidatorResult.Reject
  }

  #isFirst(envelope: Uint8Array): boolean {
    // The last half of the signature.
    const id = Buffer.from(envelope.subarray(-32)).toString('base64')
    if (this.#forwarded.has(id)) return false
    this.#forwarded.add(id)
    if (this.#forwarded.size > MAX_REMEMBERED) this.#forwarded.delete(this.#forwarded.values().next().value!)
    return true
  }

  readonly #publish = (envelope: Uint8Array): void => {
    this.#isFirst(envelope)
    const publishing = this.#components.pubsub
      .publish(this.#topic, envelope)
      .then(() => {})
      .catch((error: unknown) => {
        // A node that is alone publishes to nobody.
        if (!(error instanceof Error && error.message.includes('NoPeersSubscribedToTopic'))) this.#counts.publishFailures++
      })
      .finally(() => this.#publishing.delete(publishing))
    this.#publishing.add(publishing)
  }

  #connected(peer: PeerId, connection: Connection): void {
    const key = peer.toString()
    // Every identification is announced, a push of one too; the first one counts.
    const isKnown = this.#peers.has(key)
    this.#peers.set(key, peer)
    // A sync serves both sides; whoever dialled begins it.
    if (isKnown || connection.direction !== 'outbound') return
    this.#waiting.add(key)
    this.#next()
  }

  /** A topology hears only of peers that are identified after it was registered. */
  async #meetConnected(): Promise<void> {
    const { libp2p } = this.#components
    for (const connection of libp2p.getConnections()) {
      const known = await libp2p.peerStore.get(connection.remotePeer).catch(() => null)
      if (known?.protocols.includes(ID) === true) this.#connected(connection.remotePeer, connection)
    }
  }

  #disconnected(peer: PeerId): void {
    this.#peers.delete(peer.toString())
    this.#waiting.delete(peer.toString())
  }

  #next(): void {
    for (const key of this.#waiting) {
      if (this.#stopping === null || this.#syncing.size >= MAX_PARALLEL_SYNCS) return
      this.#waiting.delete(key)
      const peer = this.#peers.get(key)
      if (peer === undefined || this.#syncing.has(key) || this.#budget.isIgnored(key)) continue
      // A failure is counted; the next periodic sync, with this peer or another, makes good for it.
      this.sync(peer)
        .catch(() => {})
        .finally(() => this.#next())
    }
  }

  #arm(): void {
    const authorsMs = this.#components.ledger.stats().liveAuthors * SYNC_AUTHOR_MS
    const intervalMs = Math.max(this.#init.syncIntervalMs ?? DEFAULTS.syncIntervalMs, authorsMs)
    // Nodes that started together need not synchronise together for ever.
    const waitMs = intervalMs * (0.75 + this.#random() / 2)
    this.#timer = setTimeout(() => {
      const candidates = [...this.#peers.keys()].filter((key) => !this.#syncing.has(key) && !this.#budget.isIgnored(key))
      const chosen = candidates[Math.floor(this.#random() * candidates.length)]
      if (chosen !== undefined) this.#waiting.add(chosen)
      this.#next()
      this.#arm()
    }, waitMs)
  }
}
