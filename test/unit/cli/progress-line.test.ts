import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ProgressLine, size } from '../../../node/cli/progress-line.ts'

function lineOf(isTTY: boolean): { line: ProgressLine; written: () => string; pass: (ms: number) => void } {
  let now = 0
  let text = ''
  const output = { isTTY, write: (more: string) => (text += more) }
  return {
    line: new ProgressLine('packing', output, () => now),
    written: () => text,
    pass: (ms) => {
      now += ms
    },
  }
}

test('on a terminal one line is redrawn, and its rate leaves out what an earlier run has done', () => {
  const { line, written, pass } = lineOf(true)
  line.draw({ bytes: 1e9, totalBytes: 4e9 })
  assert.equal(written(), `\r\u001B[Kpacking ${'█'.repeat(6)}${'░'.repeat(18)} 25 % of 4.00 GB`)
  pass(50)
  line.draw({ bytes: 1.1e9, totalBytes: 4e9 })
  assert.doesNotMatch(written(), /left/, 'not redrawn so soon')
  pass(4950)
  line.draw({ bytes: 2e9, totalBytes: 4e9 })
  assert.match(written(), /50 % of 4\.00 GB, 200\.0 MB\/s, 10 s left$/)
  line.clear()
  assert.ok(written().endsWith('\r\u001B[K'))
})

test('into a file it is a line every ten seconds', () => {
  const { line, written, pass } = lineOf(false)
  for (let second = 0; second <= 25; second++) {
    line.draw({ bytes: second * 1e6, totalBytes: 4e9 })
    pass(1000)
  }
  line.clear()
  assert.deepEqual(written().trimEnd().split('\n'), [
    'packing 0 % of 4.00 GB, 1.0 MB/s, 1 h 6 min left',
    'packing 0 % of 4.00 GB, 1.0 MB/s, 1 h 6 min left',
  ])
})

test('writes bytes for people', () => {
  assert.equal(size(31_460_000), '31.5 MB')
  assert.equal(size(13_838_000_000), '13.84 GB')
})
