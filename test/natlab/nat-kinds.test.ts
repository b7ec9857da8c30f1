import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../scripts/natlab/lab.ts'
import { NAT_KINDS } from '../../scripts/natlab/nat-rules.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'

const ECHO = fileURLToPath(new URL('../../scripts/natlab/udp-echo.ts', import.meta.url))
const MAPPING = fileURLToPath(new URL('../../scripts/natlab/udp-mapping.ts', import.meta.url))
const TARGETS = ['52.0.0.1:9000', '52.0.0.1:9001', '52.0.0.2:9000']
const missing = await missingRequirement()

for (const kind of NAT_KINDS) {
  test(`a ${kind} router maps as its kind does`, { skip: missing ?? false }, async (t) => {
    const lab = await Lab.create({ a: { nat: kind }, b: { nat: 'open' }, publics: 2, delayMs: 2 })
    t.after(() => lab.close())
    for (const host of ['p1', 'p2'] as const) {
      const args = [...lab.on(host).slice(1), process.execPath, ECHO, '9000', '9001']
      await once(spawn('ip', args, { stdio: ['pipe', 'pipe', 'inherit'] }).stdout, 'data')
    }
    const seen = JSON.parse(await lab.exec('a', process.execPath, [MAPPING, ...TARGETS])) as string[]
    assert.ok(
      seen.every((address) => address?.startsWith('52.0.0.11:')),
      `seen as ${seen.join(', ')}`,
    )
    assert.equal(new Set(seen).size, kind === 'sym' ? TARGETS.length : 1, `seen as ${seen.join(', ')}`)
  })
}
