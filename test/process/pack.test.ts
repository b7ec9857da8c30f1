/** `skein pack` as a process: killed without warning while it downloads and packs, interrupted, and on disks that are too small. */
import assert from 'node:assert/strict'
import { execFile, spawn, spawnSync } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { listModels, openModel } from '../../node/model/library.ts'
import { PART_BYTES } from '../../node/model/hub/partial-file.ts'
import { packCheckpoint } from '../../node/model/pack.ts'
import { writeSyntheticCheckpoint } from '../../scripts/synthetic-checkpoint.ts'
import { hubServer } from '../helpers/hub-server.ts'
import type { HubServerInit } from '../helpers/hub-server.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'
import { until } from '../helpers/until.ts'

const MAIN = fileURLToPath(new URL('../../node/main.ts', import.meta.url))
/** Large enough for two threads and some tens of blobs. */
const SHAPE = { layers: 8, experts: 16, expertsPerToken: 2, hiddenSize: 512, expertSize: 512, heads: 8, vocabSize: 512, maxContext: 128 }
const BLOBS_BEFORE_KILL = 4
const PACK_TIMEOUT_MS = 120_000

const folder = mkdtempSync(join(tmpdir(), 'skein-pack-'))
const checkpoint = join(folder, 'checkpoint')

function startPack(data: string, quant = 'q4'): ChildProcess {
  return spawn(process.execPath, [MAIN, 'pack', checkpoint, '--quant', quant, '--name', 'tiny', '--data', data], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
}

async function endOf(child: ChildProcess): Promise<{ code: number | null; errors: string }> {
  let errors = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, errors }
}

/** Lines of the journal of the one packing that is under way. */
async function journalOf(data: string): Promise<string[]> {
  const dir = join(data, 'blobs', 'packing')
  const [name] = await readdir(dir).catch(() => [])
  return name === undefined ? [] : (await readFile(join(dir, name), 'utf8')).split('\n').slice(0, -1)
}

async function blobsIn(data: string): Promise<string[]> {
  return (await readdir(join(data, 'blobs'))).filter((name) => name.startsWith('baf'))
}

describe('skein pack', () => {
  before(async () => {
    await writeSyntheticCheckpoint({ dir: checkpoint, ...SHAPE })
  })
  after(async () => {
    await rm(folder, { recursive: true, force: true })
  })

  test('killed with -9 it leaves no model, and the same command goes on from the complete blobs', async (t) => {
    const undisturbed = createBlobStore({ dir: await temporaryDir(t) })
    const { id } = await packCheckpoint({ dir: checkpoint, store: undisturbed, quant: 'q4', trunk: 'q8', name: 'tiny' })
    const data = await temporaryDir(t)
    const child = startPack(data)
    const ended = endOf(child)
    await until(async () => (await journalOf(data)).length >= BLOBS_BEFORE_KILL, {
      what: 'some blobs are complete',
      timeoutMs: PACK_TIMEOUT_MS,
    })
    child.kill('SIGKILL')
    assert.equal((await ended).code, null)
    const store = createBlobStore({ dir: join(data, 'blobs') })
    assert.deepEqual(await listModels(store), [])
    await assert.rejects(openModel(store, 'tiny'), { name: 'ModelMissingError' })
    await assert.rejects(openModel(store, id), { name: 'ModelMissingError' })
    const complete = (await journalOf(data)).map((line) => line.split(' ')[1]!)
    const states = await Promise.all(complete.map(async (cid) => (await stat(join(store.dir, cid))).mtimeMs))
    const again = await endOf(startPack(data))
    assert.equal(again.code, 0, again.errors)
    assert.equal((await openModel(store, 'tiny')).id, id)
    assert.deepEqual(
      await Promise.all(complete.map(async (cid) => (await stat(join(store.dir, cid))).mtimeMs)),
      states,
      'not written again',
    )
    assert.deepEqual(await readdir(join(store.dir, 'packing')), [])
    t.diagnostic(`${complete.length} blobs were complete when it was killed`)
  })

  test('interrupted it says how to go on, and leaves no unfinished file', async (t) => {
    const data = await temporaryDir(t)
    const child = startPack(data)
    const ended = endOf(child)
    await until(async () => (await journalOf(data)).length >= 1, { what: 'a blob is complete', timeoutMs: PACK_TIMEOUT_MS })
    child.kill('SIGINT')
    const { code, errors } = await ended
    assert.equal(code, 1)
    assert.match(errors, /interrupted; no model was added: run the same command again to go on/)
    assert.deepEqual(await readdir(join(data, 'blobs', 'tmp')), [])
    assert.ok((await journalOf(data)).length >= 1)
  })

  test('a file that the system lets not grow ends it with an error, and everything it wrote is gone', async (t) => {
    const data = await temporaryDir(t)
    // The limit (in blocks of 512 bytes) is above the embedding's and the layers' blobs, below those of the experts.
    const script = `ulimit -f 2400; exec "$0" "$@"`
    const args = [MAIN, 'pack', checkpoint, '--quant', 'q8', '--name', 'tiny', '--data', data]
    const { status, stderr } = spawnSync('sh', ['-c', script, process.execPath, ...args], { encoding: 'utf8', timeout: PACK_TIMEOUT_MS })
    assert.equal(status, 1, stderr)
    assert.match(stderr, /skein: no space left in .*blobs \(EFBIG\): free some, or choose another data directory\n$/)
    assert.deepEqual(await blobsIn(data), [])
    for (const name of ['tmp', 'packing']) assert.deepEqual(await readdir(join(data, 'blobs', name)), [])
  })

  test('a disk that is plainly too small is named before anything is written, one that fills up meanwhile is cleaned', async (t) => {
    const disk = await temporaryDir(t)
    const mountable = spawnSync('unshare', ['-rm', 'mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', disk], { encoding: 'utf8' })
    if (mountable.status !== 0) {
      t.skip(`no right to mount a small disk here: ${mountable.error?.message ?? mountable.stderr}`)
      return
    }
    const onDisk = async (megabytes: number, body: string): Promise<string> => {
      const code = `
        const { readdirSync, writeFileSync } = await import('node:fs')
        const { createBlobStore } = await import(${JSON.stringify(new URL('../../node/model/blob-store.ts', import.meta.url).href)})
        const { packCheckpoint } = await import(${JSON.stringify(new URL('../../node/model/pack.ts', import.meta.url).href)})
        const store = createBlobStore({ dir: ${JSON.stringify(join(disk, 'blobs'))} })
        const pack = (onProgress) => packCheckpoint({ dir: ${JSON.stringify(checkpoint)}, store, quant: 'q4', name: 'tiny', onProgress })
        ${body}`
      const mount = `mount -t tmpfs -o size=${megabytes}m none "$1" && exec "$0" --input-type=module -e "$2"`
      const { stdout } = await promisify(execFile)('unshare', ['-rm', 'sh', '-c', mount, process.execPath, disk, code], {
        timeout: PACK_TIMEOUT_MS,
      })
      return stdout
    }
    const small = await onDisk(4, `await pack().catch((error) => console.log(error.name, error.message))`)
    assert.match(small, /^DiskFullError packing needs 0\.\d+ GB and .*blobs has 0\.00 GB free: free some, choose another --data directory/)
    const filling = await onDisk(
      120,
      `const filler = Buffer.alloc(2 ** 20)
      const fill = ({ bytes, totalBytes }) => {
        if (bytes < totalBytes / 2) return
        try { for (;;) writeFileSync(${JSON.stringify(join(disk, 'filler'))}, filler, { flag: 'a' }) } catch {}
      }
      await pack(fill).catch((error) => console.log(error.name, error.message))
      console.log(JSON.stringify(readdirSync(store.dir, { recursive: true }).sort()))`,
    )
    assert.match(filling, /^DiskFullError no space left in .*blobs \(ENOSPC\): free some.*\n\["packing","tmp"\]\n$/)
  })

  test('killed with -9 while it downloads, the same command asks only for what is missing', async (t) => {
    const dir = await temporaryDir(t)
    const source = join(dir, 'source')
    await writeSyntheticCheckpoint({ dir: source, ...SHAPE, layers: 1 })
    const files: Record<string, Uint8Array> = {}
    for (const name of await readdir(source)) files[name] = await readFile(join(source, name))
    const weights = 'model-00002-of-00002.safetensors'
    let isHanging = true
    const trouble: HubServerInit['trouble'] = ({ path, range }) => isHanging && path.includes(weights) && !range!.startsWith('bytes=0-')
    const { endpoint, commit, requests } = await hubServer(t, { repo: 'acme/tiny', files, trouble })
    const data = join(dir, 'data')
    const pack = (): ChildProcess =>
      spawn(process.execPath, [MAIN, 'pack', 'hf:acme/tiny', '--hub', endpoint, '--data', data], { stdio: ['ignore', 'ignore', 'pipe'] })
    const child = pack()
    const ended = endOf(child)
    const state = join(data, 'downloads', 'acme--tiny', commit, `${weights}.part.json`)
    await until(() => stat(state).catch(() => undefined), { what: 'the first part is complete', timeoutMs: PACK_TIMEOUT_MS })
    child.kill('SIGKILL')
    await ended
    isHanging = false
    const before = requests.length
    const again = await endOf(pack())
    assert.equal(again.code, 0, again.errors)
    const ranges = requests.slice(before).filter(({ path, isStore }) => isStore && path.includes(weights))
    assert.deepEqual(
      ranges.map(({ range }) => range),
      [`bytes=${PART_BYTES}-${files[weights]!.byteLength - 1}`],
    )
    const store = createBlobStore({ dir: join(data, 'blobs') })
    const { id } = await openModel(store, 'tiny-q4')
    assert.equal((await packCheckpoint({ dir: source, store, quant: 'q4', trunk: 'q8', name: 'tiny-q4' })).id, id)
  })
})
