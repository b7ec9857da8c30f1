import { gossipsub } from '@libp2p/gossipsub'
import type { GossipSub, GossipSubComponents, GossipsubOpts } from '@libp2p/gossipsub'
import type { Startable } from '@libp2p/interface'
import { sha256 } from 'multiformats/hashes/sha2'
import { GossipKeeper } from './gossip-keeper.ts'
import type { GossipStreams } from './gossip-keeper.ts'

/** Enough that no two of a swarm's messages of two minutes are alike, and that nobody finds a second one for an id. */
const MESSAGE_ID_BYTES = 16

/**
 * Gossip for the ledger's envelopes, thrifty before quick: an envelope may take a second longer, and what gossip loses the next heartbeat
 * or sync brings. Measured by scripts/bench/ledger.ts.
 */
const OPTIONS: Partial<GossipsubOpts> = Object.freeze({
  allowPublishToZeroTopicPeers: true,
  emitSelf: false,
  runOnLimitedConnection: true,
  // Envelopes are signed by their authors; a second signature and the key would add 140 bytes to each.
  globalSignaturePolicy: 'StrictNoSign',
  msgIdFn: async ({ data }) => (await sha256.encode(data)).subarray(0, MESSAGE_ID_BYTES),
  // Each envelope comes from about two of at most three neighbours (a random graph of degree three is one piece); the ids of those of the
  // last second are told to one more.
  D: 3,
  Dlo: 2,
  Dhi: 3,
  Dscore: 1,
  Dout: 1,
  Dlazy: 1,
  gossipFactor: 0,
  mcacheGossip: 1,
  // By default an own message goes to every peer, which costs a node with a hundred peers as much as all other traffic.
  floodPublish: false,
  // A dozen nodes of one machine, house or office share an address, and are no worse for it: by default the eleventh makes all of them
  // unacceptable. Who sends what an honest peer does not is ignored by the ledger's own account of each peer.
  scoreParams: { IPColocationFactorWeight: 0 },
  // Spares a copy of the larger envelopes from neighbours that have not sent theirs yet; for small ones the notices cost more than they save.
  idontwantMinDataSize: 1024,
})

/** The pubsub service of a node; a {@link GossipKeeper} runs with it. */
export function ledgerGossip(): (components: GossipSubComponents) => GossipSub {
  const create = gossipsub(OPTIONS)
  return (components) => {
    const gossip = create(components) as GossipSub & GossipStreams & Startable
    const keeper = new GossipKeeper(components, gossip)
    const [start, stop] = [gossip.start.bind(gossip), gossip.stop.bind(gossip)]
    gossip.start = async () => {
      await start()
      keeper.start()
    }
    gossip.stop = async () => {
      keeper.stop()
      await stop()
    }
    return gossip
  }
}
