import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PunchHistory } from '../../../node/net/punch/punch-history.ts'
import { whyRelayed } from '../../../node/net/why-relayed.ts'
import type { PunchSide } from '../../../protocols/punch/index.ts'

const side = (udp: PunchSide['udp']['mapping'], tcp: PunchSide['tcp']['mapping'] = 'independent'): PunchSide => ({
  udp: { mapping: udp, endpoints: [] },
  tcp: { mapping: tcp, endpoints: [] },
})

/** What is told of a peer after a history. */
function told(happen: (history: PunchHistory) => void, dialFailure: string | null = null): string {
  const history = new PunchHistory()
  happen(history)
  return whyRelayed({ punch: { record: history.of('peer') }, dialFailure, nowMs: Date.now() })
}

test('both sides’ routers, the number of punches and the last failure are named', () => {
  const began = (mine: PunchSide, theirs: PunchSide, times = 1) =>
    told((history) => Array.from({ length: times }, () => history.began('peer', mine, theirs)))
  assert.match(
    began(side('dependent'), side('dependent'), 3),
    /3 punches in vain, the last 0 s ago: .*symmetric NAT.*\[here UDP symmetric, TCP one/,
  )
  assert.match(began(side('none'), side('independent')), /1 punch in vain.*UDP is blocked here/)
  assert.match(began(side('independent'), side('none')), /UDP is blocked on the other side/)
  assert.match(began(side('none', 'none'), side('independent')), /nobody can tell how this side is seen/)
  assert.match(began(side('independent'), side('independent')), /a firewall on one of the sides/)
  assert.match(
    told((history) => history.failed('peer', 'the peer is busy')),
    /1 punch in vain, the last 0 s ago \(the peer is busy\)$/,
  )
})

test('dials in vain, no punches, and punches switched off are named', () => {
  assert.match(
    told(() => {}, 'connect ECONNREFUSED'),
    /its own addresses did not answer \(connect ECONNREFUSED\); no punch was tried yet/,
  )
  assert.match(whyRelayed({ punch: null, dialFailure: null, nowMs: 0 }), /no address of its own.*--no-punch/)
})

test('a punch that succeeded begins the count anew', () => {
  const text = told((history) => {
    history.began('peer', side('independent'), side('independent'))
    history.opened('peer', 'quic')
    history.began('peer', side('independent'), side('dependent'))
  })
  assert.match(text, /1 punch in vain/)
})
