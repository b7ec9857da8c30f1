import type { NatKind, NetworkReport, PeerReach } from '../net/network-report.ts'
import { note, ok, problem } from './finding.ts'
import type { Finding } from './finding.ts'
import { libraryFindings } from './libraries.ts'

/** Clocks this far apart make invites, and records in the ledger, expire too early or too late. */
const CLOCK_NOTE_MS = 10_000
const CLOCK_PROBLEM_MS = 5 * 60_000
/** Reservations without which the loss of one relay cuts the node off. */
const SAFE_RELAYS = 2

/** What a running node's report means, and what to do about it. Pure. */
export function diagnose(report: NetworkReport): Finding[] {
  return [
    membership(report),
    clock(report.clockAheadMs),
    ...ports(report),
    ...leftOut(report),
    ...libraryFindings(report.missing),
    ...upnp(report),
    ...nat(report),
    reflectors(report),
    relays(report),
    dht(report),
    ...bootstrap(report),
    ...report.peers.map(peerFinding),
  ]
}

function membership({ swarm, refused, peers }: NetworkReport): Finding {
  const kind = swarm.isPrivate ? 'private' : 'open'
  if (swarm.isAdmitted) {
    if (refused.length === 0) return ok(`in the ${kind} swarm "${swarm.name}"`)
    const text = `in the ${kind} swarm "${swarm.name}"; ${refused.length} peers did not belong to it`
    const strangers = new Set(refused.map(({ peer }) => peer))
    if (peers.some(({ peer, links }) => links.length > 0 && !strangers.has(peer))) return note(text)
    return problem(
      `${text}, and no other is connected: ${refused.at(-1)!.reason}`,
      'check the swarm name and the bootstrap addresses, or ask for a new invite',
    )
  }
  const [first] = refused
  return problem(
    `not admitted to the private swarm "${swarm.name}" yet${first === undefined ? '' : `: ${first.reason}`}`,
    'ask for a new invite, and join while the node that made it is running',
  )
}

function clock(aheadMs: number | null): Finding {
  if (aheadMs === null) return note('clock: no peer to compare it with')
  const text = `this clock is ${duration(Math.abs(aheadMs))} ${aheadMs > 0 ? 'behind' : 'ahead of'} the peers' clocks`
  if (Math.abs(aheadMs) < CLOCK_NOTE_MS) return ok('clock agrees with the peers')
  if (Math.abs(aheadMs) < CLOCK_PROBLEM_MS) return note(text, 'switch on time synchronisation (NTP)')
  return problem(text, 'set the clock, and switch on time synchronisation (NTP): invites and ledger records are dated by it')
}

function ports({ relay, addresses }: NetworkReport): Finding[] {
  const own = addresses.filter((address) => !address.includes('/p2p-circuit'))
  if (own.length === 0) return [problem('listens on no address', 'pass --listen, for example /ip4/0.0.0.0/tcp/4115')]
  if (relay.reach === 'public') return [ok(`publicly reachable; listens on ${own.length} addresses`)]
  return [
    note(
      `listens on ${own.length} addresses, of which none was confirmed to be reachable from the internet`,
      'forward the listening port in the router, or switch on UPnP there; with a forwarded port pass --announce /ip4/<public address>/tcp/<port>',
    ),
  ]
}

function leftOut({ leftOut: addresses }: NetworkReport): Finding[] {
  return addresses.map(({ address, reason }) =>
    note(
      `does not listen on ${address}: ${reason}`,
      'peers reach this node at its other addresses; to have this one too, mend that and start again',
    ),
  )
}

function upnp({ upnp: status, isUpnpOn, relay }: NetworkReport): Finding[] {
  if (!isUpnpOn)
    return relay.reach === 'public' ? [] : [note('UPnP is switched off', 'leave out --no-upnp to let a router forward the port')]
  if (status === null || (relay.reach === 'public' && status.mapped.length === 0)) return []
  const { routers, mapped } = status
  if (mapped.length > 0) {
    const isConfirmed = mapped.some((address) => address.isConfirmed)
    const text = `UPnP: the router forwards ${mapped.map(({ address }) => address).join(', ')}`
    return [isConfirmed ? ok(`${text}, confirmed by peers`) : note(`${text}; no peer has confirmed that it can be reached there yet`)]
  }
  if (routers.length === 0)
    return [
      note(
        'UPnP: no router answers',
        'switch on UPnP (IGD 2) in the router, or forward ports 4115 and 4116, both TCP and UDP, to this machine',
      ),
    ]
  return [
    note(
      `UPnP: router ${routers.join(', ')} answers but forwards nothing`,
      'it may be behind another router itself, or refuse: forward the port by hand, in both routers if there are two',
    ),
  ]
}

const NAT_TEXT: Readonly<Record<NatKind, string>> = Object.freeze({
  none: 'unknown',
  independent: 'one mapping for all peers (can be punched)',
  dependent: 'another mapping for each peer (symmetric, hard to punch)',
})

function nat({ nat: kinds, relay }: NetworkReport): Finding[] {
  if (relay.reach === 'public') return []
  if (kinds === null) return [note('kind of NAT: unknown, nobody to ask', 'it needs two public peers that act as reflectors')]
  const text = `NAT: UDP ${NAT_TEXT[kinds.udp]}; TCP ${NAT_TEXT[kinds.tcp]}`
  if (kinds.udp === 'dependent')
    return [note(text, 'switch on UPnP in the router, or use another network: peers behind such routers too are reached by relays only')]
  return [kinds.udp === 'none' ? note(text, 'UDP may be blocked here, or there are no two public peers to ask') : ok(text)]
}

function reflectors({ reflectors: count }: NetworkReport): Finding {
  if (count === null) return note('punching is switched off', 'leave out --no-punch to let this node open direct links')
  if (count >= 2) return ok(`${count} reflectors`)
  return note(`${count} reflectors; two are needed to tell what kind of NAT this is`, 'a public node in the swarm helps everybody')
}

function relays({ relay }: NetworkReport): Finding {
  const { serving, using, reach } = relay
  if (serving.isOpen)
    return ok(`relays for ${serving.reservations} peers, ${serving.circuits} connections now, ${megabytes(serving.bytes)} so far`)
  if (using.length >= SAFE_RELAYS) return ok(`reachable through ${using.length} relays`)
  if (reach === 'public') return ok('needs no relay')
  if (using.length === 1)
    return note(
      'reachable through one relay only',
      'if it goes the node is cut off until it finds another: the swarm needs more public nodes',
    )
  return note(
    'no relay',
    'peers outside of this network cannot reach this node unless a direct way opens; the swarm needs a public node, or one with --relay on',
  )
}

function dht({ dht: { isServer, peers, known } }: NetworkReport): Finding {
  if (peers === 0)
    return problem('connected to nobody: the DHT cannot be asked', 'check the network, the bootstrap addresses and the swarm name')
  if (known === 0)
    return note(
      'the DHT knows nobody who would answer: new hosts and relays are found through connected peers only',
      'if it stays so, update skein on the peers',
    )
  return ok(`DHT ${isServer ? 'server' : 'client'} that knows ${known} peers, ${peers} connected`)
}

function bootstrap({ unreachable, peers }: NetworkReport): Finding[] {
  const isAlone = peers.every(({ links }) => links.length === 0)
  return unreachable.map(({ address, reason }) => {
    const text = `bootstrap ${address}: ${reason}; it is tried again`
    return isAlone
      ? problem(text, 'is the other node running, and its port open? Ask for a newer invite')
      : note(text, 'other peers are there: nothing to do')
  })
}

function peerFinding({ peer, name, links, reason }: PeerReach): Finding {
  const who = `peer ${peer}${name === null || name === '' ? '' : ` (${name})`}`
  const [best] = links
  if (best === undefined) return note(`${who}: ${reason ?? 'not connected'}`)
  const ways = links.map(({ by, relay, rttMs }) => `${relay === null ? by : `relay ${relay}`}${rttMs === null ? '' : ` ${rttMs} ms`}`)
  const text = `${who}: ${ways.join(', ')}`
  return reason === null ? ok(text) : note(`${text}: ${reason}`, 'UPnP or a forwarded port on either side makes it direct')
}

function duration(ms: number): string {
  const seconds = Math.round(ms / 1000)
  if (seconds < 120) return `${seconds} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 120 ? `${minutes} min` : `${Math.round(minutes / 60)} h`
}

function megabytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`
}
