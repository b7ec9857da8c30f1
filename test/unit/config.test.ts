import assert from 'node:assert/strict'
import { mkdir, writeFile } from 'node:fs/promises'
import { availableParallelism, homedir, totalmem } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { defaultDataDir, loadConfig } from '../../node/config.ts'
import { environmentName, flagName, SETTINGS } from '../../node/settings.ts'
import { RELAY_DEFAULTS } from '../../node/net/relay-server.ts'
import type { RawSettings, SettingKey } from '../../node/settings.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'

const PEER = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'

/** A data directory whose configuration file holds `content`. */
async function dataDir(t: TestContext, content?: unknown): Promise<string> {
  const dir = await temporaryDir(t)
  if (content !== undefined) await writeFile(join(dir, 'config.json'), typeof content === 'string' ? content : JSON.stringify(content))
  return dir
}

const refuses = (flags: RawSettings, env: NodeJS.ProcessEnv, message: RegExp): void => {
  assert.throws(() => loadConfig(flags, env), { name: 'ConfigError', message })
}

const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')

test('with nothing said, a node serves the embedded model to its own machine', async (t) => {
  const data = await dataDir(t)
  assert.deepEqual(loadConfig({ data }, {}), {
    dataDir: data,
    storeDir: join(data, 'blobs'),
    name: null,
    swarm: 'public',
    isPrivate: false,
    listen: ['/ip4/0.0.0.0/tcp/4115', '/ip4/0.0.0.0/udp/4115/quic-v1', '/ip6/::/tcp/4115', '/ip6/::/udp/4115/quic-v1'],
    isListenChosen: false,
    announce: [],
    bootstrap: [],
    mdns: true,
    upnp: true,
    punch: { isOn: true, port: 4116, ways: ['udp', 'tcp', 'webrtc'] },
    relay: { mode: 'auto', quota: RELAY_DEFAULTS },
    models: ['ember'],
    host: { kind: 'all' },
    budget: { ramBytes: Math.floor(totalmem() / 4), diskBytes: 20e9 },
    kv: { type: 'f32', limitBytes: Math.floor(totalmem() / 4) },
    cacheBytes: 0,
    device: 'cpu',
    threads: availableParallelism(),
    api: { host: '127.0.0.1', port: 4114, key: null },
    wire: 'f16',
    combine: 'host',
    heatHalfLifeMs: 3_600_000,
    handoverMs: 30_000,
    logLevel: 'info',
  })
  assert.equal(defaultDataDir(), join(homedir(), '.skein'))
})

test('the result is frozen and plain', async (t) => {
  const config = loadConfig({ data: await dataDir(t) }, {})
  assert.ok(Object.isFrozen(config) && Object.isFrozen(config.api))
  assert.deepEqual(structuredClone(config), config)
})

/** For each setting but `data`: three good values as flag, variable and file give them, and where the value arrives. */
const GOOD: Record<
  Exclude<SettingKey, 'data'>,
  { flag: unknown; env: string; file: unknown; read: (config: ReturnType<typeof loadConfig>) => unknown }
> = {
  store: { flag: '/a', env: '/b', file: '/c', read: (config) => config.storeDir },
  name: { flag: 'a', env: 'Ünï cöde', file: 'c.3_-', read: (config) => config.name },
  swarm: { flag: 'a', env: 'b-2', file: 'c', read: (config) => config.swarm },
  private: { flag: true, env: 'false', file: true, read: (config) => config.isPrivate },
  listen: {
    flag: ['/ip4/1.2.3.4/tcp/1'],
    env: '/ip4/1.2.3.4/tcp/2, /ip6/::/tcp/2',
    file: ['/ip4/1.2.3.4/tcp/3'],
    read: (config) => config.listen.join(', '),
  },
  bootstrap: {
    flag: [`/ip4/1.2.3.4/tcp/1/p2p/${PEER}`],
    env: `/dns4/example.org/tcp/2/p2p/${PEER}`,
    file: [`/ip4/1.2.3.4/tcp/3/p2p/${PEER}`],
    read: (config) => config.bootstrap.join(),
  },
  announce: {
    flag: ['/ip4/1.2.3.4/tcp/1'],
    env: '/dns4/example.org/tcp/2',
    file: ['/ip4/1.2.3.4/tcp/3'],
    read: (config) => config.announce.join(),
  },
  relay: { flag: 'on', env: 'off', file: 'auto', read: (config) => config.relay.mode },
  relayRate: { flag: '1', env: '2', file: 3, read: (config) => config.relay.quota.bytesPerMinute / 1024 ** 2 },
  relayPeers: { flag: '1', env: '2', file: 3, read: (config) => config.relay.quota.reservations },
  upnp: { flag: false, env: 'true', file: false, read: (config) => config.upnp },
  mdns: { flag: false, env: 'true', file: false, read: (config) => config.mdns },
  punch: { flag: false, env: 'true', file: false, read: (config) => config.punch.isOn },
  punchBy: { flag: ['webrtc'], env: 'udp, tcp', file: ['tcp'], read: (config) => config.punch.ways.join(', ') },
  punchPort: { flag: '0', env: '65534', file: 4000, read: (config) => config.punch.port },
  model: { flag: ['a', 'b'], env: 'c, d', file: ['e'], read: (config) => config.models.join(', ') },
  host: { flag: 'none', env: '0.5', file: '0:1-2', read: (config) => config.host.kind },
  ram: { flag: '4GB', env: '512MiB', file: 1000, read: (config) => sizeText(config.budget.ramBytes) },
  disk: { flag: '20 gb', env: '1.5TB', file: '7kib', read: (config) => sizeText(config.budget.diskBytes) },
  kv: { flag: 'q8', env: 'f32', file: 'q8', read: (config) => config.kv.type },
  kvMemory: { flag: '4GB', env: '512MiB', file: '7kib', read: (config) => sizeText(config.kv.limitBytes) },
  cache: { flag: '4GB', env: '1.5TB', file: 0, read: (config) => sizeText(config.cacheBytes) },
  device: { flag: 'cuda', env: 'auto', file: 'webgpu', read: (config) => config.device },
  threads: { flag: '1', env: '2', file: 3, read: (config) => config.threads },
  apiHost: { flag: '::1', env: 'localhost', file: '127.0.0.1', read: (config) => config.api.host },
  apiPort: { flag: '0', env: '65535', file: 80, read: (config) => config.api.port },
  apiKey: { flag: 'a', env: 'b', file: 'c', read: (config) => config.api.key },
  wire: { flag: 'f32', env: 'i8', file: 'f16', read: (config) => config.wire },
  combine: { flag: 'driver', env: 'host', file: 'driver', read: (config) => config.combine },
  handover: { flag: '0', env: '3600', file: 5, read: (config) => config.handoverMs / 1000 },
  heatHalfLife: { flag: '1', env: '1440', file: 43_200, read: (config) => config.heatHalfLifeMs / 60_000 },
  log: { flag: 'silent', env: 'debug', file: 'error', read: (config) => config.logLevel },
}

/** The size as it is written above; any other as a number. */
function sizeText(bytes: number): string {
  const written = { 4e9: '4GB', [512 * 2 ** 20]: '512MiB', 2e10: '20 gb', 1.5e12: '1.5TB', [7 * 1024]: '7kib' } as Record<number, string>
  return written[bytes] ?? String(bytes)
}

for (const [name, { flag, env, file, read }] of Object.entries(GOOD)) {
  const key = name as SettingKey
  test(`${key}: a flag goes before the environment, that before the file, that before the default`, async (t) => {
    const plain = await dataDir(t)
    const data = await dataDir(t, { [key]: file })
    const variables = { [environmentName(key)]: env }
    const arrives = (value: unknown): string => {
      const text = Array.isArray(value) ? value.join(', ') : String(value)
      return key === 'host' ? { none: 'none', '0.5': 'fraction', '0:1-2': 'list' }[text]! : text
    }
    assert.equal(String(read(loadConfig({ data, [key]: flag }, variables))), arrives(flag))
    assert.equal(String(read(loadConfig({ data }, variables))), arrives(env))
    assert.equal(String(read(loadConfig({ data }, {}))), arrives(file))
    assert.deepEqual(read(loadConfig({ data: plain }, { [environmentName(key)]: '' })), read(loadConfig({ data: plain }, {})))
  })
}

test('a node may answer with no model at all', async (t) => {
  assert.deepEqual(loadConfig({ data: await dataDir(t), model: ['none'] }, {}).models, [])
})

test('the data directory comes from the flag, else from the environment', async (t) => {
  const [flag, env] = [await dataDir(t), await dataDir(t, { swarm: 'from-env-dir' })]
  assert.equal(loadConfig({ data: flag }, { SKEIN_DATA: env }).dataDir, flag)
  assert.equal(loadConfig({}, { SKEIN_DATA: env }).swarm, 'from-env-dir')
  refuses({ data: '' }, {}, /^--data needs a value$/)
})

test('every setting has a good value above, so that none goes untested', () => {
  assert.deepEqual(new Set(['data', ...Object.keys(GOOD)]), new Set(SETTINGS.map((setting) => setting.key)))
})

/** Bad values, as they may come as a flag or a variable, and what the error must say beside the setting's name. */
const BAD: readonly { key: SettingKey; flag: unknown; env?: string; says: RegExp }[] = [
  { key: 'swarm', flag: 'Öffentlich', env: 'Öffentlich', says: /lower-case letters, digits and dashes/ },
  { key: 'swarm', flag: '-a', env: 'a'.repeat(33), says: /1-32/ },
  { key: 'name', flag: 'a\u001B[31m', env: 'a/b', says: /use letters, digits, spaces/ },
  { key: 'name', flag: 'a'.repeat(65), env: '網'.repeat(22), says: /at most 64 bytes/ },
  { key: 'listen', flag: ['0.0.0.0:4115'], env: '0.0.0.0:4115', says: /is not a multiaddr, for example \/ip4/ },
  {
    key: 'bootstrap',
    flag: ['/ip4/1.2.3.4/tcp/1'],
    env: '/ip4/1.2.3.4/tcp/1',
    says: /does not end in \/p2p\/<peer id>: copy the whole address/,
  },
  { key: 'bootstrap', flag: ['/ip4/1.2.3.4/tcp/1/p2p/me'], env: '/ip4/1.2.3.4/tcp/1/p2p/me', says: /is not a multiaddr.*p2p/ },
  { key: 'punchBy', flag: ['udp', 'ice'], env: 'ice', says: /ice: choose from udp, tcp, webrtc/ },
  { key: 'mdns', flag: 'perhaps', env: 'perhaps', says: /must be true or false/ },
  { key: 'model', flag: 'a', env: 'a,,b', says: /must be a list of texts/ },
  { key: 'model', flag: ['none', 'a'], env: 'a, none', says: /none goes with no other model/ },
  { key: 'host', flag: 'some', env: 'some', says: /expected all, none, auto, a fraction/ },
  { key: 'ram', flag: '4 apples', env: '-1', says: /use a size such as 4GB/ },
  { key: 'disk', flag: 'GB', env: '1,5GB', says: /use a size such as 4GB/ },
  { key: 'kv', flag: 'f8', env: 'q4', says: /choose one of f32, q16, q8/ },
  { key: 'handover', flag: '3601', env: '-1', says: /whole number from 0 to 3600/ },
  { key: 'kvMemory', flag: 'much', env: '4XB', says: /use a size such as 4GB/ },
  { key: 'device', flag: 'gpu', env: 'CUDA', says: /choose one of auto, cpu, cuda, coreml, dml, webgpu/ },
  { key: 'threads', flag: '0', env: '1.5', says: /whole number from 1 to 256/ },
  { key: 'threads', flag: 'many', env: '257', says: /whole number from 1 to 256/ },
  { key: 'apiPort', flag: '65536', env: '-1', says: /whole number from 0 to 65535/ },
  { key: 'apiHost', flag: '0.0.0.0', env: '::', says: /reachable from other machines: set --api-key, or listen on 127\.0\.0\.1/ },
  { key: 'apiKey', flag: '', says: /needs a value/ },
  { key: 'wire', flag: 'f64', env: 'f64', says: /choose one of f32, f16, i8/ },
  { key: 'combine', flag: 'both', env: 'both', says: /choose one of host, driver/ },
  { key: 'log', flag: 'loud', env: 'loud', says: /choose one of silent, error, info, debug/ },
]

for (const { key, flag, env, says } of BAD) {
  test(`${key} ${JSON.stringify(flag)}: the error names where the value came from`, async (t) => {
    const data = await dataDir(t)
    refuses({ data, [key]: flag }, {}, new RegExp(`^${flagName(key)} .*${says.source}`))
    if (env !== undefined) refuses({ data }, { [environmentName(key)]: env }, new RegExp(`^${environmentName(key)} .*${says.source}`))
    const other = await dataDir(t, { [key]: flag })
    refuses({ data: other }, {}, new RegExp(`^${escaped(`"${key}" in ${join(other, 'config.json')}`)} .*${says.source}`))
  })
}

test('values of a wrong kind in the file are refused by name', async (t) => {
  for (const [key, value] of Object.entries({
    swarm: null,
    name: ['a'],
    listen: '/ip4/1.2.3.4/tcp/1',
    model: [1],
    mdns: 1,
    threads: {},
    apiKey: true,
  })) {
    refuses({ data: await dataDir(t, { [key]: value }) }, {}, new RegExp(`^"${key}" in .*config\\.json `))
  }
})

test('an API that others can reach needs a key, wherever the key comes from', async (t) => {
  const data = await dataDir(t, { apiKey: 'secret' })
  assert.equal(loadConfig({ data, apiHost: '0.0.0.0' }, {}).api.key, 'secret')
  const without = await dataDir(t)
  assert.equal(loadConfig({ data: without, apiHost: '192.0.2.7' }, { SKEIN_API_KEY: 'k' }).api.key, 'k')
  refuses({ data: without, apiHost: '192.0.2.7' }, {}, /--api-host 192\.0\.2\.7 is reachable/)
})

test('a file with an unknown setting is refused with the list of known ones', async (t) => {
  refuses({ data: await dataDir(t, { swram: 'a' }) }, {}, /config\.json has an unknown setting "swram"; known are store, name, swarm, /)
  refuses({ data: await dataDir(t, '{"__proto__": {"swarm": "a"}}') }, {}, /unknown setting "__proto__"/)
})

test('the file can not move the data directory in which it lies', async (t) => {
  refuses({ data: await dataDir(t, { data: '/elsewhere' }) }, {}, /unknown setting "data"/)
})

test('a file that is no JSON object is refused by its path', async (t) => {
  refuses({ data: await dataDir(t, '{"swarm": ') }, {}, /config\.json is not JSON: /)
  for (const content of ['[]', 'null', '"a"']) refuses({ data: await dataDir(t, content) }, {}, /config\.json must hold one JSON object/)
  const data = await dataDir(t)
  await mkdir(join(data, 'config.json'))
  refuses({ data }, {}, /^cannot read .*config\.json: /)
})

test('every setting has its names: flag, variable and key', () => {
  assert.equal(environmentName('apiPort'), 'SKEIN_API_PORT')
  assert.equal(flagName('apiPort'), '--api-port')
  assert.equal(flagName('mdns'), '--no-mdns')
  assert.equal(new Set(SETTINGS.map(({ key }) => environmentName(key))).size, SETTINGS.length)
})
