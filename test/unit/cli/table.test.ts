import assert from 'node:assert/strict'
import { test } from 'node:test'
import { table } from '../../../node/cli/table.ts'

test('columns are as wide as their widest cell, and lines end without spaces', () => {
  assert.equal(
    table(
      ['A', 'LONG', 'C'],
      [
        ['wide cell', 'x', ''],
        ['', 'y', 'z'],
      ],
    ),
    ['A          LONG  C', 'wide cell  x', '           y     z'].join('\n'),
  )
})

test('a table without rows is its head', () => {
  assert.equal(table(['A', 'B'], []), 'A  B')
})
