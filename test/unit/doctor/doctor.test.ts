import assert from 'node:assert/strict'
import { test } from 'node:test'
import { describeFindings } from '../../../node/cli/doctor.ts'
import { parseDuration } from '../../../node/cli/duration.ts'
import { diagnose } from '../../../node/doctor/diagnosis.ts'
import { redact } from '../../../node/doctor/redact.ts'
import type { NetworkReport } from '../../../node/net/network-report.ts'

const ANN = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'
const RELAY = '12D3KooWQ962ngBLemxKYWhLgNSPFhxKZ6WXKXEL9C6MBLzVxrfZ'
const IDLE = { isOpen: false, reservations: 0, circuits: 0, bytes: 0 }
const LINK = { by: 'tcp', address: `/ip4/52.1.2.3/tcp/4115/p2p/${ANN}`, relay: null, isOutbound: true, rttMs: 15 } as const

const MISSING_QUIC = { way: 'QUIC', reason: 'it does not load' } as const
const WELL: NetworkReport = {
  peer: RELAY,
  swarm: { name: 'circle', isPrivate: true, isAdmitted: true },
  addresses: ['/ip4/192.168.1.2/tcp/4115'],
  leftOut: [],
  missing: [],
  relay: { reach: 'private', using: ['a', 'b', 'c'], serving: IDLE },
  reflectors: 2,
  nat: { udp: 'independent', tcp: 'independent' },
  upnp: { routers: ['192.168.1.1'], mapped: [{ address: '/ip4/52.1.2.9/tcp/4115', isConfirmed: true }] },
  isUpnpOn: true,
  dht: { isServer: true, peers: 3, known: 3 },
  clockAheadMs: 40,
  unreachable: [],
  refused: [],
  peers: [{ peer: ANN, name: 'ann', isMember: true, links: [LINK], bytesPerSecond: null, reason: null }],
}

/** What the change makes of a healthy report. */
function findings(change: Partial<NetworkReport>): string {
  return describeFindings(diagnose({ ...WELL, ...change }).filter(({ level }) => level !== 'ok'))
}

test('a node behind a router with relays and direct peers has nothing to mend but its reach', () => {
  assert.equal(
    findings({})
      .split('\n')
      .filter((line) => /^(note|PROBLEM)/.test(line)).length,
    1,
  )
  assert.equal(findings({ relay: { reach: 'public', using: [], serving: { ...IDLE, isOpen: true } } }), '')
})

test('each trouble is named, with what to do', () => {
  for (const [change, expected] of [
    [{ clockAheadMs: -3_600_000 }, /PROBLEM +this clock is 60 min ahead of the peers' clocks\n +→ set the clock/],
    [{ clockAheadMs: 3_600_000 }, /PROBLEM +this clock is 60 min behind the peers' clocks/],
    [{ clockAheadMs: 20_000 }, /note +this clock is 20 s behind.*\n +→ switch on time sync/],
    [
      { swarm: { ...WELL.swarm, isAdmitted: false }, refused: [{ peer: ANN, reason: 'the invite has expired' }] },
      /PROBLEM +not admitted.*expired\n +→ ask for a new invite/,
    ],
    [{ refused: [{ peer: RELAY, reason: 'the peer is of another swarm' }] }, /note +in the private swarm "circle"; 1 peers did not belong/],
    [
      { refused: [{ peer: ANN, reason: 'the peer is of another swarm' }] },
      /PROBLEM +in the .*no other is connected: .*another swarm\n +→ check/,
    ],
    [{ nat: { udp: 'dependent', tcp: 'none' } }, /note +NAT: UDP another mapping for each peer.*TCP unknown\n +→ switch on UPnP/],
    [{ nat: null }, /kind of NAT: unknown/],
    [{ leftOut: [{ address: '/ip6/::/tcp/4115', reason: 'this machine has no IPv6' }] }, /note +does not listen on .*no IPv6\n +→/],
    [{ isUpnpOn: false, upnp: null }, /note +UPnP is switched off\n +→ leave out --no-upnp/],
    [{ upnp: { routers: [], mapped: [] } }, /note +UPnP: no router answers\n +→/],
    [{ upnp: { routers: ['192.168.1.1'], mapped: [] } }, /note +UPnP: router 192.168.1.1 answers but forwards nothing\n +→/],
    [
      { upnp: { routers: ['192.168.1.1'], mapped: [{ address: '/ip4/52.1.2.9/tcp/1', isConfirmed: false }] } },
      /note +UPnP: .*no peer has confirmed/,
    ],
    [{ reflectors: 1 }, /1 reflectors; two are needed/],
    [{ relay: { reach: 'private', using: ['a'], serving: IDLE } }, /through one relay only\n +→/],
    [{ relay: { reach: 'private', using: [], serving: IDLE } }, /no relay\n +→/],
    [{ dht: { isServer: true, peers: 0, known: 0 } }, /PROBLEM +connected to nobody/],
    [{ dht: { isServer: true, peers: 2, known: 0 } }, /note +the DHT knows nobody.*\n +→/],
    [
      { missing: [{ way: 'WebRTC', reason: 'it is not installed' }] },
      /note +WebRTC does not run .*not installed\n +→ run "npm ci".*without WebRTC/,
    ],
    [{ missing: [MISSING_QUIC, { way: 'WebRTC', reason: 'it is not installed' }] }, /note +QUIC does not run .*\n +→ .*over TCP only/],
    [
      { peers: [], unreachable: [{ address: '/ip4/52.1.2.3/tcp/1', reason: 'no answer in time' }] },
      /PROBLEM +bootstrap .*no answer in time; it is tried again\n/,
    ],
    [{ unreachable: [{ address: '/ip4/52.1.2.3/tcp/1', reason: 'no answer in time' }] }, /note +bootstrap .*\n +→ other peers are there/],
    [
      {
        peers: [
          {
            peer: ANN,
            name: null,
            isMember: true,
            links: [{ ...LINK, by: 'relay', relay: RELAY, rttMs: 2600 }],
            bytesPerSecond: null,
            reason: 'its router lets nothing through',
          },
        ],
      },
      new RegExp(`note +peer ${ANN}: relay ${RELAY} 2600 ms: its router lets nothing through\\n +→ UPnP`),
    ],
    [
      { peers: [{ peer: ANN, name: null, isMember: false, links: [], bytesPerSecond: null, reason: 'not connected' }] },
      /note +peer .*not connected/,
    ],
  ] as const satisfies readonly (readonly [Partial<NetworkReport>, RegExp])[]) {
    assert.match(findings(change), expected)
  }
})

test('what is pasted tells neither whole addresses, nor peer ids, nor who the user is', () => {
  const text = redact(
    `/ip4/203.0.113.77/tcp/4115/p2p/${ANN} /ip6/2a01:4f8:1:2::3/udp/1 /home/ada/.skein /ip4/127.0.0.1/tcp/1 /ip6/::1/tcp/1 /ip4/0.0.0.0/tcp/2 /ip6zone/eth0/ip6/fe80::98d5:a7ff:feaa:f9fd/tcp/3 connect ENETUNREACH 2a01:4f8:1:2::3:4115 - Local (:::0) at 11:16:23`,
  )
  assert.equal(
    text,
    '/ip4/203.0.x.x/tcp/4115/p2p/…6nXTN /ip6/2a01:4f8:x/udp/1 ~/.skein /ip4/127.0.0.1/tcp/1 /ip6/::1/tcp/1 /ip4/0.0.0.0/tcp/2 /ip6zone/eth0/ip6/fe80::x/tcp/3 connect ENETUNREACH 2a01:4f8:x - Local (:::0) at 11:16:23'.replace(
      '6nXTN',
      'x6nXTN',
    ),
  )
})

test('durations are a number and a unit', () => {
  assert.deepEqual(
    ['90s', '30m', '12h', '7d', '2w'].map((text) => parseDuration(text, '--expires')),
    [90, 1800, 43_200, 604_800, 1_209_600],
  )
  for (const wrong of ['', '7', 'd', '0d', '-1d', '1.5h', '7 d', '9999999s'])
    assert.throws(() => parseDuration(wrong, '--expires'), { name: 'ConfigError', message: /--expires .*for example 30m/ })
})
