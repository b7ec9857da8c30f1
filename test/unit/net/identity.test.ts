import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { generateKeyPair, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { loadIdentity } from '../../../node/net/identity.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const peerOf = (key: Ed25519PrivateKey): string => peerIdFromPrivateKey(key).toString()

test('the first load makes a key that its owner alone can read, the next load gives it back', async (t) => {
  const file = join(await temporaryDir(t), 'deep', 'down', 'identity.key')
  const made = await loadIdentity(file)
  assert.equal((await stat(file)).mode & 0o777, 0o600)
  assert.equal(peerOf(await loadIdentity(file)), peerOf(made))
})

test('of many that make it at once, all agree on one, and leave nothing else behind', async (t) => {
  const dir = await temporaryDir(t)
  const file = join(dir, 'identity.key')
  const keys = await Promise.all(Array.from({ length: 8 }, () => loadIdentity(file)))
  assert.deepEqual(new Set(keys.map(peerOf)), new Set([peerOf(await loadIdentity(file))]))
  assert.deepEqual(await readdir(dir), ['identity.key'])
})

test('a file that is no Ed25519 key is refused by name with what to do, and left as it is', async (t) => {
  const dir = await temporaryDir(t)
  const other = privateKeyToProtobuf(await generateKeyPair('secp256k1'))
  const good = privateKeyToProtobuf(await generateKeyPair('Ed25519'))
  const contents = { empty: new Uint8Array(), text: Buffer.from('not a key'), other, half: good.subarray(0, good.length / 2) }
  for (const [name, content] of Object.entries(contents)) {
    const file = join(dir, name)
    await writeFile(file, content)
    await assert.rejects(loadIdentity(file), {
      name: 'ConfigError',
      message: `${file} is not an Ed25519 identity: restore it from a copy, or delete it to become a new peer`,
    })
    assert.deepEqual(new Uint8Array(await readFile(file)), new Uint8Array(content))
  }
})

test('a file that can not be read is refused by name', async (t) => {
  const dir = await temporaryDir(t)
  await mkdir(join(dir, 'folder.key'))
  await assert.rejects(loadIdentity(join(dir, 'folder.key')), { name: 'ConfigError', message: /^cannot read the identity .*folder\.key: / })
  await writeFile(join(dir, 'file'), '')
  await assert.rejects(loadIdentity(join(dir, 'file', 'identity.key')), { name: 'ConfigError', message: /^cannot read the identity / })
})

test('a path that is too long to be written is refused by name', async (t) => {
  const dir = await temporaryDir(t)
  // The name itself can be looked up, the longer one of the draft beside it can not be made.
  const file = join(dir, 'k'.repeat(250))
  await assert.rejects(loadIdentity(file), { name: 'ConfigError', message: /^cannot write the identity .*ENAMETOOLONG/ })
})
