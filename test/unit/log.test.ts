import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Log } from '../../node/log.ts'
import type { LogLevel } from '../../node/log.ts'

function linesOf(level: LogLevel, use: (log: Log) => void): string[] {
  const lines: string[] = []
  use(new Log(level, (line) => lines.push(line)))
  return lines
}

const speak = (log: Log): void => {
  log.error('disk.full')
  log.info('link.opened')
  log.debug('dht.found')
}

test('a level shows itself and what is graver', () => {
  const events = (level: LogLevel): string[] => linesOf(level, speak).map((line) => line.trimEnd().split(' ').slice(1).join(' '))
  assert.deepEqual(events('silent'), [])
  assert.deepEqual(events('error'), ['error disk.full'])
  assert.deepEqual(events('info'), ['error disk.full', 'info link.opened'])
  assert.deepEqual(events('debug'), ['error disk.full', 'info link.opened', 'debug dht.found'])
})

test('a line holds time, level, event and fields', (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 10, 22, 1, 2, 3, 4) })
  const fields = { peer: '12D3Koo', ms: 12, reason: 'no "route" = bad', missing: undefined, name: '', list: [1], big: 2n ** 64n }
  assert.deepEqual(
    linesOf('info', (log) => log.info('call.failed', fields)),
    [
      '2026-11-22T01:02:03.004Z info call.failed peer=12D3Koo ms=12 reason="no \\"route\\" = bad" missing=undefined name="" list=[1] big="18446744073709551616"\n',
    ],
  )
})

test('a text that a peer chose can neither begin a new line nor steer the terminal', () => {
  const evil = 'x\n2026 error fake\r\u001B[2J\u009B2J\u2028\u202Ereversed\u0000\u007F'
  const [line] = linesOf('info', (log) => log.info('peer.joined', { name: evil, nested: { name: evil } }))
  assert.match(line!, /^[\x20-\x7e]*\n$/)
  assert.ok(line!.includes('name="x\\n2026 error fake\\r\\u001b[2J\\u009b2J\\u2028\\u202ereversed\\u0000\\u007f"'))
})

test('names in any script stay readable', () => {
  const [line] = linesOf('info', (log) => log.info('peer.joined', { name: 'Zoë 網' }))
  assert.match(line!, / name="Zoë 網"\n$/)
})
