import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { spawnDaemon } from '../../scripts/daemon-process.ts'
import type { DaemonProcess } from '../../scripts/daemon-process.ts'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const EXAMPLE_TIMEOUT_MS = 60_000
const run = promisify(execFile)

interface Example {
  readonly language: string
  readonly code: string
}

const readme = await readFile(join(ROOT, 'README.md'), 'utf8')
/** The blocks that follow `<!-- example -->`. */
const examples: Example[] = [...readme.matchAll(/<!-- example -->\n+```(\w+)\n([\s\S]*?)```/g)].map((match) => ({
  language: match[1]!,
  code: match[2]!,
}))

let dir: string
let daemon: DaemonProcess

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'skein-readme-'))
  daemon = await spawnDaemon([
    '--data',
    dir,
    '--no-mdns',
    '--listen',
    '/ip4/127.0.0.1/tcp/0',
    '--api-port',
    '0',
    '--swarm',
    'readme',
    '--threads',
    '1',
    '--log',
    'error',
  ])
})

after(async () => {
  await daemon.stop()
  await rm(dir, { recursive: true, force: true })
})

test('the README has examples to run', () => {
  assert.deepEqual(examples.map(({ language }) => language).sort(), ['js', 'sh', 'sh'])
})

for (const [index, { language, code }] of examples.entries()) {
  test(`README example ${index + 1} (${language}) works: ${code.split('\n')[0]}`, async () => {
    const adapted = code.replaceAll('http://127.0.0.1:4114', daemon.url)
    const env = { ...process.env, SKEIN_DATA: dir, PATH: `${dirname(process.execPath)}${delimiter}${process.env['PATH'] ?? ''}` }
    const options = { cwd: ROOT, env, timeout: EXAMPLE_TIMEOUT_MS }
    if (language === 'js') {
      // Beside the packages that it imports, under a name that git ignores.
      const file = join(ROOT, 'node_modules', `.readme-example-${process.pid}.mjs`)
      await writeFile(file, adapted)
      try {
        const { stdout } = await run(process.execPath, [file], options)
        assert.match(stdout, /\w+ \w+/)
      } finally {
        await rm(file, { force: true })
      }
      return
    }
    const { stdout } = await run('bash', ['-euo', 'pipefail', '-c', adapted], options)
    assert.notEqual(stdout.trim(), '')
    if (adapted.includes('/v1/chat/completions')) {
      const answer = JSON.parse(stdout) as { choices: { message: { content: string } }[]; skein: { exact: boolean } }
      assert.match(answer.choices[0]!.message.content, /\w+/)
      assert.equal(answer.skein.exact, true)
    }
  })
}
