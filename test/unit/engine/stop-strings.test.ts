import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { StopStrings } from '../../../node/engine/stop-strings.ts'

test('holds back what may begin a stop string and gives it out when it does not', () => {
  const stops = new StopStrings(['END'])
  assert.equal(stops.push('the E'), 'the ')
  assert.equal(stops.push('N'), '')
  assert.equal(stops.push('emy'), 'ENemy')
  assert.equal(stops.stopped, false)
  assert.equal(stops.push(' EN'), ' ')
  assert.equal(stops.flush(), 'EN')
  assert.equal(stops.flush(), '')
})

test('ends before the earliest stop string and stays silent after it', () => {
  const stops = new StopStrings(['\n\n', 'user:'])
  assert.equal(stops.push('hello\nuse'), 'hello\n')
  assert.equal(stops.push('r: hi\n\n'), '')
  assert.equal(stops.stopped, true)
  assert.equal(stops.push('more'), '')
  assert.equal(stops.flush(), '')
})

test('finds a stop string that overlaps a false start', () => {
  const stops = new StopStrings(['aab'])
  assert.equal(stops.push('a') + stops.push('a') + stops.push('a') + stops.push('b'), 'a')
  assert.equal(stops.stopped, true)
})

test('an empty stop string and no stop strings change nothing', () => {
  const stops = new StopStrings([''])
  assert.equal(stops.push('text'), 'text')
  assert.equal(stops.flush(), '')
})

test('however the text is cut, the result is the text before the first complete stop string (property)', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c') })
  fc.assert(
    fc.property(
      fc.array(letters, { maxLength: 12 }),
      fc.array(
        letters.filter((s) => s !== ''),
        { minLength: 1, maxLength: 3 },
      ),
      (pieces, stop) => {
        const all = pieces.join('')
        const matcher = new StopStrings(stop)
        const out = pieces.map((piece) => matcher.push(piece)).join('') + matcher.flush()
        // The stop that is complete first ends the answer; of those complete at once, the one that begins first.
        let expected = all
        for (let end = 1, found = false; end <= all.length && !found; end++) {
          const starts = stop.filter((s) => all.slice(0, end).endsWith(s)).map((s) => end - s.length)
          if (starts.length > 0) {
            found = true
            expected = all.slice(0, Math.min(...starts))
          }
        }
        assert.equal(out, expected)
        assert.equal(
          matcher.stopped,
          stop.some((s) => all.includes(s)),
        )
      },
    ),
  )
})
