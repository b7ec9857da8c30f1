/** `kill -9` of a process that writes its ledger's store without pause: the store always opens, whole, with all but the last write. */
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { seededRandom } from '../helpers/ledger.ts'
import type { WriterMessage } from '../helpers/store-writer.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'

const WRITER = fileURLToPath(new URL('../helpers/store-writer.ts', import.meta.url))
/** A hundred take a minute or two: SKEIN_KILLS=100. */
const KILLS = Number(process.env['SKEIN_KILLS'] ?? 10)
/** About half a megabyte: a write takes some milliseconds, and kills fall into every part of it. */
const AUTHORS = 100
const SAVES_BEFORE_A_KILL = 3
const LONGEST_WRITE_MS = 25

test(`${KILLS} kills while the store is written lose nothing but the last write`, { timeout: 600_000 }, async (t) => {
  const seed = randomInt(2 ** 31)
  t.diagnostic(`seed ${seed}`)
  const random = seededRandom(seed)
  const file = join(await temporaryDir(t), 'ledger.bin')
  let saved = 0
  let lost = 0
  for (let kill = 0; kill <= KILLS; kill++) {
    const writer = fork(WRITER, [file, String(AUTHORS)])
    const exited = once(writer, 'exit')
    t.after(() => writer.kill('SIGKILL'))
    const enough = Promise.withResolvers<void>()
    let saves = 0
    writer.on('message', (message: WriterMessage) => {
      if (message.kind === 'saved') {
        saved = message.counted
        if (++saves === SAVES_BEFORE_A_KILL) enough.resolve()
        return
      }
      const { authors, failures, counted } = message
      assert.equal(failures, 0, `kill ${kill} damaged the store`)
      assert.equal(authors, kill === 0 ? 0 : AUTHORS)
      // The last write may have ended without having been told of.
      assert.ok(counted === saved || counted === saved + 1, `kill ${kill}: ${counted} counted, ${saved} were saved`)
      if (counted > saved) lost++
    })
    await Promise.race([enough.promise, exited.then(([code]) => assert.fail(`the writer ended with ${code}`))])
    await delay(random() * LONGEST_WRITE_MS)
    writer.kill('SIGKILL')
    await exited
  }
  const left = await readdir(join(file, '..'))
  assert.ok(left.length <= 2, `kills leave no heap of files: ${left.join(', ')}`)
  t.diagnostic(`${saved} writes; ${lost} kills fell between a write and its notice`)
})
