import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { access, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { downloadModel } from '../../../../node/model/hub/download.ts'
import type { Download, DownloadInit, DownloadProgress } from '../../../../node/model/hub/download.ts'
import { PART_BYTES } from '../../../../node/model/hub/partial-file.ts'
import { isHubReference, parseHubReference } from '../../../../node/model/hub/reference.ts'
import { hubServer } from '../../../helpers/hub-server.ts'
import type { HubServer, HubServerInit } from '../../../helpers/hub-server.ts'
import { temporaryDir } from '../../../helpers/temporary-dir.ts'

const REPO = 'acme/tiny-moe'
const PATIENCE = { firstPauseMs: 1, maxPauseMs: 5 }

const compareTexts = (a: string | undefined, b: string | undefined): number => String(a).localeCompare(String(b))

/** Bytes that repeat at no part. */
function content(length: number, seed = 1): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4))
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + seed, 0x9e3779b1)
  return new Uint8Array(words.buffer, 0, length)
}

const text = (value: unknown): Uint8Array => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))
const WEIGHTS = content(2 * PART_BYTES + 12_345)
const FILES: Record<string, Uint8Array> = {
  '.gitattributes': text('*.safetensors filter=lfs'),
  'README.md': text('# Tiny'),
  'config.json': text({ architectures: ['OlmoeForCausalLM'] }),
  'generation_config.json': text({ temperature: 0.7 }),
  'tokenizer.json': text({ model: {} }),
  'model.safetensors.index.json': text({ weight_map: { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' } }),
  'model-00001-of-00002.safetensors': WEIGHTS,
  'model-00002-of-00002.safetensors': content(5_000, 2),
  'model-00003-of-00002.safetensors': content(5_000, 3),
  'pytorch_model.bin': content(9_000, 4),
  'original/consolidated.safetensors': content(9_000, 5),
}
const NEEDED = [
  'config.json',
  'generation_config.json',
  'model-00001-of-00002.safetensors',
  'model-00002-of-00002.safetensors',
  'model.safetensors.index.json',
  'tokenizer.json',
]

async function fetched(
  t: TestContext,
  server: HubServer,
  more: Partial<DownloadInit> & { token?: string; from?: string } = {},
): Promise<Download> {
  const { token, from, ...init } = more
  return await downloadModel({
    reference: parseHubReference(from ?? `hf:${REPO}`),
    hub: { endpoint: server.endpoint, token: token ?? null },
    dir: init.dir ?? (await temporaryDir(t)),
    patience: PATIENCE,
    ...init,
  })
}

async function server(t: TestContext, init: Partial<HubServerInit> = {}): Promise<HubServer> {
  return await hubServer(t, { repo: REPO, files: FILES, ...init })
}

test('fetches only what packing needs, in parallel ranges, with the token for the hub alone', async (t) => {
  const hub = await server(t, { token: 'hf_secret' })
  const seen: DownloadProgress[] = []
  const { dir, checkpoint, commit } = await fetched(t, hub, { token: 'hf_secret', onProgress: (progress) => seen.push(progress) })
  assert.equal(checkpoint, dir)
  assert.equal(commit, hub.commit)
  assert.deepEqual((await readdir(dir)).sort(), NEEDED)
  for (const name of NEEDED) assert.deepEqual(Buffer.compare(await readFile(join(dir, name)), FILES[name]!), 0, name)
  const ranges = hub.requests.filter(({ isStore, path }) => isStore && path.includes('00001')).map(({ range }) => range)
  assert.deepEqual(
    ranges.toSorted(compareTexts),
    [
      `bytes=${PART_BYTES}-${2 * PART_BYTES - 1}`,
      `bytes=${2 * PART_BYTES}-${WEIGHTS.byteLength - 1}`,
      `bytes=0-${PART_BYTES - 1}`,
    ].toSorted(compareTexts),
  )
  assert.ok(hub.requests.filter(({ isStore }) => isStore).every(({ authorization }) => authorization === undefined))
  const total = NEEDED.filter((name) => !name.endsWith('index.json')).reduce((sum, name) => sum + FILES[name]!.byteLength, 0)
  assert.deepEqual(seen.at(-1), { bytes: total, totalBytes: total })
})

test('asks again only for what is missing after a cut, and checks the whole', async (t) => {
  const dir = await temporaryDir(t)
  let isCut = true
  const trouble: HubServerInit['trouble'] = ({ path, range }, response) => {
    // The first two parts come; the third one breaks off each time after 1,000 bytes, then not even those come.
    if (!isCut || !path.includes('00001') || !range!.startsWith(`bytes=${2 * PART_BYTES}`)) return false
    response.writeHead(206, { 'content-length': 5_000 })
    response.write(WEIGHTS.subarray(2 * PART_BYTES, 2 * PART_BYTES + 1000), () => response.destroy())
    return true
  }
  const never: HubServerInit['trouble'] = (request, response) => {
    if (trouble(request, response)) return true
    if (!isCut || !request.path.includes('00001') || !request.range!.startsWith(`bytes=${2 * PART_BYTES + 1000}`)) return false
    response.destroy()
    return true
  }
  const hub = await server(t, { trouble: never })
  await assert.rejects(fetched(t, hub, { dir }), {
    name: 'ModelError',
    message: /model-00001-of-00002\.safetensors: .*6 times in a row: check the network .* run the same command again; it goes on from here/,
  })
  const folder = join(dir, 'acme--tiny-moe', hub.commit)
  assert.ok((await readdir(folder)).includes('model-00001-of-00002.safetensors.part'))
  isCut = false
  const before = hub.requests.length
  const seen: DownloadProgress[] = []
  await fetched(t, hub, { dir, onProgress: (progress) => seen.push(progress) })
  assert.ok(seen[0]!.bytes >= 1000, 'what came before counts')
  const again = hub.requests.slice(before).filter(({ isStore, path }) => isStore && path.includes('00001'))
  assert.ok(
    again.every(({ range }) => range !== `bytes=${2 * PART_BYTES}-${WEIGHTS.byteLength - 1}`),
    'no byte is asked for twice',
  )
  const asked = again.reduce((sum, { range }) => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range!)!
    return sum + Number(to) - Number(from) + 1
  }, 0)
  assert.ok(asked <= seen.at(-1)!.totalBytes - seen[0]!.bytes)
  const sha256 = createHash('sha256')
    .update(await readFile(join(folder, 'model-00001-of-00002.safetensors')))
    .digest('hex')
  assert.equal(sha256, createHash('sha256').update(WEIGHTS).digest('hex'))
  assert.deepEqual((await readdir(folder)).sort(), NEEDED)
})

test('goes on within a part when the connection breaks', async (t) => {
  let cuts = 0
  const trouble: HubServerInit['trouble'] = ({ path, range }, response) => {
    const from = Number(/^bytes=(\d+)/.exec(range ?? '')?.[1] ?? 0)
    if (!path.includes('00001') || cuts >= 12 || from >= PART_BYTES) return false
    cuts++
    response.writeHead(206, { 'content-length': PART_BYTES - from })
    response.write(WEIGHTS.subarray(from, from + 100_000), () => response.destroy())
    return true
  }
  const { dir } = await fetched(t, await server(t, { trouble }))
  assert.equal(cuts, 12)
  assert.equal(Buffer.compare(await readFile(join(dir, 'model-00001-of-00002.safetensors')), WEIGHTS), 0)
})

test('waits when the hub asks for it, and gives up a connection on which nothing comes', async (t) => {
  let refused = 0
  let stalled = 0
  const trouble: HubServerInit['trouble'] = ({ path }, response) => {
    if (path.includes('00002-of') && refused < 2) {
      refused++
      response.writeHead(refused === 1 ? 429 : 503, { 'retry-after': '0' }).end()
      return true
    }
    if (path.includes('00001-of') && stalled < 1) {
      stalled++
      response.writeHead(206).write('x')
      return true
    }
    return false
  }
  const hub = await server(t, { trouble })
  // What came on the dead connection is wrong, which the hash finds.
  await assert.rejects(fetched(t, hub, { patience: { ...PATIENCE, stallMs: 2_000 } }), {
    name: 'ModelError',
    message: /came with the wrong content .*run the same command again/,
  })
  assert.equal(refused, 2)
  assert.equal(stalled, 1)
})

// One of each kind of hash, one at a time: what else was under way when the first is found wrong is kept, unchecked, for the next try.
for (const name of ['tokenizer.json', 'model-00002-of-00002.safetensors'] as const) {
  test(`content of ${name} that does not match its hash is not kept, and the next try fetches it anew`, async (t) => {
    const dir = await temporaryDir(t)
    let isWrong = true
    const trouble: HubServerInit['trouble'] = ({ path }, response) => {
      if (!isWrong || !path.includes(name)) return false
      const { byteLength } = FILES[name]!
      response.writeHead(200, { 'content-length': byteLength }).end(Buffer.alloc(byteLength))
      return true
    }
    const hub = await server(t, { trouble })
    await assert.rejects(fetched(t, hub, { dir }), { name: 'ModelError', message: /came with the wrong content/ })
    isWrong = false
    await fetched(t, hub, { dir })
    const folder = join(dir, 'acme--tiny-moe', hub.commit)
    for (const needed of NEEDED) assert.equal(Buffer.compare(await readFile(join(folder, needed)), FILES[needed]!), 0, needed)
  })
}

test('an abort ends everything at once and keeps what came', async (t) => {
  const dir = await temporaryDir(t)
  const abort = new AbortController()
  const hub = await server(t)
  const onProgress = ({ bytes }: DownloadProgress): void => {
    if (bytes > PART_BYTES) abort.abort(new Error('enough'))
  }
  await assert.rejects(fetched(t, hub, { dir, onProgress, signal: abort.signal }), { message: 'enough' })
  const { size } = await stat(join(dir, 'acme--tiny-moe', hub.commit, 'model-00001-of-00002.safetensors.part'))
  assert.ok(size > 0)
  await fetched(t, hub, { dir })
})

test('says what is wrong when the hub has no such thing, or does not give it', async (t) => {
  const hub = await server(t, { token: 'hf_secret' })
  const refused = (more: Parameters<typeof fetched>[2], message: RegExp): Promise<void> =>
    assert.rejects(fetched(t, hub, more), { name: 'ModelError', message })
  await refused({}, /refuses model acme\/tiny-moe at revision main \(401\): it does not exist, or is private or gated; set HF_TOKEN/)
  await refused({ token: 'hf_wrong' }, /check that HF_TOKEN is valid/)
  await refused({ token: 'hf_secret', from: `hf:${REPO}@nowhere` }, /has no model acme\/tiny-moe at revision nowhere: check the spelling/)
  await refused({ token: 'hf_secret', from: `hf:${REPO}:gone.gguf` }, /acme\/tiny-moe has no file gone\.gguf at revision main/)
  const nothing = await server(t, { files: { 'README.md': text('# Tiny'), 'pytorch_model.bin': content(10) } })
  await assert.rejects(fetched(t, nothing), {
    name: 'ModelError',
    message: /neither model\.safetensors with a config\.json nor GGUF files/,
  })
  const { 'model-00002-of-00002.safetensors': _, ...incomplete } = FILES
  await assert.rejects(fetched(t, await server(t, { files: incomplete })), {
    name: 'ModelError',
    message: /has no file model-00002-of-00002\.safetensors/,
  })
})

test('a hub that is away, or is no hub, is named', async (t) => {
  const gone = await server(t)
  await assert.rejects(
    downloadModel({
      reference: parseHubReference(`hf:${REPO}`),
      hub: { endpoint: 'http://127.0.0.1:1', token: null },
      dir: await temporaryDir(t),
      patience: PATIENCE,
    }),
    { name: 'ModelError', message: /127\.0\.0\.1:1 can't be reached .*6 times in a row/ },
  )
  await assert.rejects(fetched(t, { ...gone, endpoint: `${gone.endpoint}/wrong` }), { name: 'ModelError', message: /has no model/ })
})

test('GGUF files: the one that is named with its split parts, the only one, or a choice', async (t) => {
  const files = {
    'README.md': text('# GGUF'),
    'Q4/m-00001-of-00002.gguf': content(2_000, 6),
    'Q4/m-00002-of-00002.gguf': content(3_000, 7),
    'm-Q8_0.gguf': content(4_000, 8),
  }
  const hub = await server(t, { files })
  await assert.rejects(fetched(t, hub), {
    name: 'ModelError',
    message: /has 2 models in GGUF: name one of\n {2}hf:acme\/tiny-moe:Q4\/m-00001-of-00002\.gguf\n {2}hf:acme\/tiny-moe:m-Q8_0\.gguf/,
  })
  const split = await fetched(t, hub, { from: `hf:${REPO}:Q4/m-00002-of-00002.gguf` })
  assert.deepEqual((await readdir(join(split.dir, 'Q4'))).sort(), ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf'])
  await access(split.checkpoint)
  const only = await fetched(t, await server(t, { files: { 'm-Q8_0.gguf': files['m-Q8_0.gguf'] } }))
  assert.equal(only.checkpoint, join(only.dir, 'm-Q8_0.gguf'))
})

test('an index that names files elsewhere is refused before anything of it is fetched', async (t) => {
  const files = { ...FILES, 'model.safetensors.index.json': text({ weight_map: { a: '../../etc/passwd.safetensors' } }) }
  const hub = await server(t, { files })
  await assert.rejects(fetched(t, hub), { name: 'ModelError', message: /which is no safetensors file of the same folder/ })
  assert.ok(hub.requests.every(({ path }) => !path.includes('passwd')))
})

test('a damaged or foreign state of a download is not believed', async (t) => {
  const dir = await temporaryDir(t)
  const hub = await server(t)
  const folder = join(dir, 'acme--tiny-moe', hub.commit)
  const name = 'model-00001-of-00002.safetensors'
  for (const state of ['{"hash": "00", "partBytes": 16777216, "begun": [[0, 16777216]]}', 'rubbish']) {
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, `${name}.part`), Buffer.alloc(WEIGHTS.byteLength))
    await writeFile(join(folder, `${name}.part.json`), state)
    await fetched(t, hub, { dir })
    assert.equal(Buffer.compare(await readFile(join(folder, name)), WEIGHTS), 0)
    await writeFile(join(folder, name), 'short')
  }
})

test('reads references, and refuses what could leave the folder', () => {
  assert.ok(isHubReference('hf:a/b') && !isHubReference('./a/b'))
  assert.deepEqual(parseHubReference('hf:allenai/OLMoE-1B-7B-0924'), { repo: 'allenai/OLMoE-1B-7B-0924', revision: 'main' })
  assert.deepEqual(parseHubReference('hf:a/b@refs/pr/1'), { repo: 'a/b', revision: 'refs/pr/1' })
  assert.deepEqual(parseHubReference('hf:a/b@v1:Q4/c-Q4_K_M.gguf'), { repo: 'a/b', revision: 'v1', file: 'Q4/c-Q4_K_M.gguf' })
  for (const bad of [
    'hf:',
    'hf:a',
    'hf:a/b/c',
    'hf:../b',
    'hf:a/..',
    'hf:a/b@',
    'hf:a/b@../x',
    'hf:a/b:',
    'hf:a/b:../c.gguf',
    'hf:a/b:/c.gguf',
    'hf:a/b:c.bin',
    'hf:a b/c',
  ]) {
    assert.throws(() => parseHubReference(bad), { name: 'ModelError', message: /expected hf:org\/name/ }, bad)
  }
})
