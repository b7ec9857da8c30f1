import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PeerStatus, SwarmStatus } from '../../../node/api/services.ts'
import { describeStatus, shortPeer } from '../../../node/cli/status.ts'

const QUIET: PeerStatus = {
  peer: '12D3KooWAAAAAAAAquietone',
  name: null,
  connected: false,
  address: null,
  rttMs: null,
  experts: 0,
  callsSent: 0,
  callsFailed: 0,
  ledgerAgeSeconds: null,
  backoffMs: 0,
}

const STATUS: SwarmStatus = {
  version: '0.1.0',
  swarm: 'public',
  peer: '12D3KooWself',
  addresses: ['/ip4/192.0.2.1/tcp/4115/p2p/12D3KooWself'],
  uptimeSeconds: 61,
  ready: true,
  models: [
    {
      name: 'ember',
      id: 'bafy',
      architecture: 'qwen3_moe',
      quant: 'q8',
      createdAt: 0,
      maxContext: 512,
      coverage: { experts: 64, covered: 64, minReplicas: 2, complete: true, missing: [], missingBytes: 0 },
      expertBytes: 1_000_000,
    },
  ],
  refused: [],
  relay: { reach: 'private', using: [], serving: { isOpen: false, reservations: 0, circuits: 0, bytes: 0 } },
  peers: [
    {
      ...QUIET,
      peer: '12D3KooWAAAAAAAA01234567',
      name: 'ada',
      connected: true,
      rttMs: 1.5,
      experts: 32,
      callsSent: 90,
      ledgerAgeSeconds: 4,
    },
    { ...QUIET, callsSent: 3, callsFailed: 2, backoffMs: 14_001 },
    QUIET,
  ],
  holdings: [{ model: 'ember', layers: [{ layer: 0, experts: '0-3' }] }],
  routing: [{ model: 'ember', tokens: 1200.4 }],
}

test('a status tells node, models, peers and holdings', () => {
  assert.deepEqual(describeStatus(STATUS).split('\n'), [
    'node   12D3KooWself  (skein 0.1.0, up 61 s)',
    'swarm  public  ready',
    'listen /ip4/192.0.2.1/tcp/4115/p2p/12D3KooWself',
    '',
    'MODEL  QUANT  EXPERTS COVERED  REPLICAS (RAREST)  TOKENS ROUTED',
    'ember  q8     64/64            2                  1200',
    '',
    'PEER       NAME  STATE            CALL OVERHEAD  EXPERTS  CALLS         HEARD',
    '…01234567  ada   connected        1.5 ms         32       90            4 s ago',
    '…quietone  -     backed off 15 s  -              0        3 (2 failed)  -',
    '…quietone  -     known            -              0        0             -',
    '',
    'HOSTED  LAYER  EXPERTS',
    'ember   0      0-3',
  ])
})

test('a lonely node that hosts nothing says so, and whether it is ready', () => {
  const text = describeStatus({ ...STATUS, ready: false, peers: [], holdings: [], routing: [] })
  for (const line of ['swarm  public  not ready: some experts have no live host', 'no peers yet', 'hosting nothing']) {
    assert.ok(text.split('\n').includes(line), line)
  }
  assert.match(text, /ember.* 0$/m)
})

test('a peer is called by the end of its id, where ids differ', () => {
  assert.equal(shortPeer('12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'), '…4kx6nXTN')
})
