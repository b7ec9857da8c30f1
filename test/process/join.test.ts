/** Joining a swarm with real daemons and the real commands. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { decodeInvite, encodeInvite } from '../../node/swarm/invite.ts'
import { multiaddr } from '@multiformats/multiaddr'
import { CLEAN_ENV, DaemonSwarm, skein, statusOf } from '../helpers/daemon-swarm.ts'
import { fixedPort } from '../helpers/fixed-port.ts'
import { until } from '../helpers/until.ts'

const PEER = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'

/** A folder for a swarm's nodes. Those that `skein join` started in it are daemons of their own, which end before it is removed. */
async function emptySwarm(t: TestContext): Promise<DaemonSwarm> {
  const swarm = await DaemonSwarm.create()
  t.after(async () => {
    for (const name of await readdir(swarm.dir)) await skein(['down', '--data', join(swarm.dir, name)])
    await swarm.stop()
  })
  return swarm
}

/** Where a joined daemon keeps its things, and flags that keep it on loopback. */
function newcomer(swarm: DaemonSwarm, name: string): { data: string; flags: string[] } {
  const data = join(swarm.dir, name)
  const flags = [
    '--data',
    data,
    '--store',
    swarm.storeDir,
    '--listen',
    '/ip4/127.0.0.1/tcp/0',
    '--no-mdns',
    '--api-port',
    '0',
    '--threads',
    '1',
  ]
  return { data, flags: [...flags, '--host', 'none'] }
}

test('an invite is all that a newcomer of a private swarm needs', { timeout: 120_000 }, async (t) => {
  const swarm = await emptySwarm(t)
  const founder = await swarm.start('founder', ['--private', '--host', 'all'])
  const founderData = join(swarm.dir, 'founder')
  const invited = await skein(['invite', '--data', founderData, '--uses', '1', '--expires', '2h'])
  assert.equal(invited.code, 0, invited.stderr)
  assert.match(invited.stdout, /[▀▄█]{8}/)
  assert.match(invited.stderr, /good until .*, for 1 node/)
  const invite = invited.stdout.trim().split('\n').at(-1)!

  const first = newcomer(swarm, 'first')
  const startedAt = performance.now()
  const joined = await skein(['join', invite, ...first.flags])
  assert.equal(joined.code, 0, joined.stderr)
  assert.match(
    joined.stdout,
    /joined +test-\w+ \(private\)\nconnected +1 peer: 1 direct, 0 relayed\nmodel +ember: 96 of 96 experts covered/,
  )
  const asked = await skein(['ask', '--data', first.data, '--max-tokens', '5', 'Tell me a story'])
  assert.equal(asked.code, 0, asked.stderr)
  t.diagnostic(`join to the first answer: ${Math.round(performance.now() - startedAt)} ms`)
  assert.equal((await skein(['join', invite, ...first.flags])).code, 2, 'a second daemon on the same data')

  const peers = JSON.parse((await skein(['peers', '--data', first.data, '--json'])).stdout) as { peer: string; links: { by: string }[] }[]
  assert.deepEqual(
    peers.map(({ peer, links }) => [peer, links[0]!.by]),
    [[founder.peer, 'tcp']],
  )
  const doctor = await skein(['doctor', '--data', first.data])
  assert.equal(doctor.code, 0, doctor.stdout)
  assert.match(doctor.stdout, /^ok +in the private swarm/m)
  assert.match(doctor.stdout, /^ok +clock agrees with the peers/m)
  assert.ok(!doctor.stdout.includes(founder.peer), 'fit to be pasted')
  const secret = (JSON.parse(await readFile(join(first.data, 'swarms', `${swarm.name}.json`), 'utf8')) as { secret: string }).secret
  const full = await skein(['doctor', '--data', first.data, '--full', '--json'])
  assert.ok(full.stdout.includes(founder.peer) && !full.stdout.includes(secret))
  const { report } = JSON.parse(full.stdout) as {
    report: { peers: { links: { by: string; rttMs: number | null }[] }[]; dht: { known: number } }
  }
  assert.deepEqual([report.peers[0]!.links[0]!.by, typeof report.dht.known], ['tcp', 'number'])

  const second = newcomer(swarm, 'second')
  const refused = await skein(['join', invite, '--wait', '30', ...second.flags])
  assert.equal(refused.code, 1, refused.stderr)
  assert.match(refused.stderr, /as many nodes as it may: ask for a new one/)
  // It tries on in the background, and its own commands answer.
  assert.equal((await skein(['status', '--data', second.data])).code, 0)
  assert.equal((await skein(['down', '--data', second.data])).code, 0)
})

test('an invite that cannot work is refused before anything is started', { timeout: 60_000 }, async (t) => {
  const swarm = await emptySwarm(t)
  const { data, flags } = newcomer(swarm, 'nobody')
  const address = multiaddr(`/ip4/127.0.0.1/tcp/9/p2p/${PEER}`)
  const expired = encodeInvite({ name: 'circle', expiresAt: Date.now() - 3 * 3_600_000, addresses: [address], keys: null })
  for (const [invite, message] of [
    ['hello', /this is no invite/],
    [expired.slice(0, -9), /damaged or cut off/],
    [expired, /expired at .* this machine's clock says .*: ask for a new one/],
  ] as const) {
    const { code, stderr } = await skein(['join', invite, ...flags])
    assert.equal(code, 2, stderr)
    assert.match(stderr, message)
  }
  assert.equal((await skein(['down', '--data', data])).code, 2)
})

test('nobody at the addresses: the node says so, tries on and connects once somebody is there', { timeout: 90_000 }, async (t) => {
  const swarm = await emptySwarm(t)
  const { data, flags } = newcomer(swarm, 'early')
  const listen = `/ip4/127.0.0.1/tcp/${await fixedPort()}`
  const founder = await swarm.start('founder', ['--host', 'none', '--listen', listen])
  await founder.stop()
  const addresses = [multiaddr(`${listen}/p2p/${founder.peer}`)]
  const invite = encodeInvite({ name: swarm.name, expiresAt: Date.now() + 3_600_000, addresses, keys: null })
  const joined = await skein(['join', invite, '--wait', '3', ...flags])
  assert.equal(joined.code, 1)
  assert.match(joined.stderr, /not connected yet: .*ECONNREFUSED.*keeps trying in the background/)
  const doctor = await skein(['doctor', '--data', data])
  assert.equal(doctor.code, 1)
  assert.match(doctor.stdout, /^PROBLEM +bootstrap .*ECONNREFUSED/m)
  const { url } = JSON.parse(await readFile(join(data, 'api.json'), 'utf8')) as { url: string }
  assert.ok((await statusOf(url)).peers.length === 0)
  await swarm.start('founder', ['--host', 'none', '--listen', listen])
  await until(async () => (await statusOf(url)).peers.some(({ connected }) => connected), { what: 'the late founder', timeoutMs: 30_000 })
})

test('an invite that leads to a node of another swarm, or has another key, says so', { timeout: 120_000 }, async (t) => {
  const swarm = await emptySwarm(t)
  const founder = await swarm.start('founder', ['--private', '--host', 'none'])
  const { stdout } = await skein(['invite', '--data', join(swarm.dir, 'founder')])
  const real = decodeInvite(stdout.trim().split('\n').at(-1)!)
  const foreign = encodeInvite({ ...real, keys: { ...real.keys!, secret: randomBytes(32) } })
  const stranger = newcomer(swarm, 'stranger')
  const refused = await skein(['join', foreign, '--wait', '16', ...stranger.flags])
  assert.equal(refused.code, 1)
  assert.match(refused.stderr, /not connected yet: .*not as a peer of this swarm.*another key/)
  assert.equal((await statusOf(founder.url)).peers.length, 0)

  const other = await swarm.start('other', ['--swarm', 'elsewhere', '--host', 'none'])
  const address = multiaddr(other.addresses[0])
  const astray = encodeInvite({ name: swarm.name, expiresAt: Date.now() + 3_600_000, addresses: [address], keys: null })
  const lost = newcomer(swarm, 'lost')
  const joined = await skein(['join', astray, '--wait', '20', ...lost.flags])
  assert.equal(joined.code, 1, joined.stdout)
  assert.match(joined.stderr, /not connected yet: .*another swarm/)
  const doctor = await skein(['doctor', '--data', lost.data])
  assert.match(doctor.stdout, /^PROBLEM +.*no other is connected: .*another swarm/m)
})

test('a clock that is an hour ahead does not keep a node out, and both join and doctor name it', { timeout: 90_000 }, async (t) => {
  const swarm = await emptySwarm(t)
  await swarm.start('founder', ['--private', '--host', 'none'])
  const { stdout } = await skein(['invite', '--data', join(swarm.dir, 'founder'), '--expires', '30m'])
  const ahead = `const RealDate = Date; const now = () => RealDate.now() + 3_600_000
    globalThis.Date = class extends RealDate { constructor(...given) { super(...(given.length === 0 ? [now()] : given)) } static now() { return now() } }`
  const env = { ...CLEAN_ENV, NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(ahead)}` }
  const { data, flags } = newcomer(swarm, 'early')
  const joined = await skein(['join', stdout.trim().split('\n').at(-1)!, ...flags], { env })
  assert.equal(joined.code, 0, joined.stderr)
  assert.match(joined.stderr, /the invite expired at .*this machine's clock says .*trying all the same, in case the clock is wrong/)
  const doctor = await skein(['doctor', '--data', data])
  assert.equal(doctor.code, 1)
  assert.match(doctor.stdout, /^PROBLEM +this clock is 60 min ahead of the peers' clocks\n +→ set the clock/m)
})

test('nodes that have met find each other again without any bootstrap node', { timeout: 120_000 }, async (t) => {
  const swarm = await emptySwarm(t)
  const gateway = await swarm.start('gateway', ['--host', 'none'])
  // The same ports both times, as a node at home has.
  const owners = await Promise.all(['ann', 'ben'].map(async (name) => ({ name, listen: `/ip4/127.0.0.1/tcp/${await fixedPort()}` })))
  const start = () => Promise.all(owners.map(({ name, listen }) => swarm.start(name, ['--host', 'all', '--listen', listen])))
  const met = await start()
  const sees = async (url: string, peer: string): Promise<boolean> =>
    (await statusOf(url)).peers.some((one) => one.peer === peer && one.connected)
  await until(async () => (await sees(met[0]!.url, met[1]!.peer)) && (await sees(met[1]!.url, met[0]!.peer)), { what: 'ann and ben meet' })
  await Promise.all([gateway.stop(), ...met.map((daemon) => daemon.stop())])
  swarm.daemons.delete('gateway')
  const again = await start()
  await until(async () => (await sees(again[0]!.url, again[1]!.peer)) && (await sees(again[1]!.url, again[0]!.peer)), {
    what: 'ann and ben meet again',
    timeoutMs: 30_000,
  })
  // Forgetting is what a data directory of its own does.
  const stranger = await swarm.start('stranger', ['--host', 'none'])
  assert.equal((await statusOf(stranger.url)).peers.length, 0)
})

test('without a daemon doctor examines what it can', { timeout: 60_000 }, async (t) => {
  const swarm = await emptySwarm(t)
  const blocker = createServer()
  await new Promise<void>((resolve) => blocker.listen(0, '127.0.0.1', resolve))
  t.after(() => blocker.close())
  const { port } = blocker.address() as { port: number }
  const env = {
    ...CLEAN_ENV,
    SKEIN_LISTEN: `/ip4/127.0.0.1/tcp/${port}`,
    SKEIN_BOOTSTRAP: `/ip4/127.0.0.1/tcp/1/p2p/${PEER}`,
    SKEIN_API_PORT: '0',
  }
  const { code, stdout } = await skein(['doctor', '--data', join(swarm.dir, 'none'), '--json'], { env })
  assert.equal(code, 1)
  const { findings } = JSON.parse(stdout) as { findings: { level: string; what: string; advice: string | null }[] }
  const problems = findings.filter(({ level }) => level === 'problem')
  assert.deepEqual(
    problems.map(({ what }) => what.replaceAll(/\d+/g, 'N')),
    [
      '/ipN/N.N.N.N/tcp/N can not be listened on: the port is in use',
      'bootstrap /ipN/N.N.N.N/tcp/N/pNp/…xNnXTN: connect ECONNREFUSED N.N.N.N:N',
    ],
  )
  assert.ok(problems.every(({ advice }) => advice !== null))
  assert.ok(findings.some(({ level, what }) => level === 'ok' && what === 'QUIC and WebRTC run on this machine'))

  // As where npm could not install the native part.
  const broken = `import { registerHooks } from 'node:module'; registerHooks({ resolve: (name, context, next) => {
    if (name === '@chainsafe/libp2p-quic') throw new Error('Cannot find native binding'); return next(name, context) } })`
  const without = { ...CLEAN_ENV, NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(broken)}` }
  const doctor = await skein(['doctor', '--data', join(swarm.dir, 'none')], { env: without })
  assert.match(doctor.stdout, /^note +QUIC does not run on this machine: .*Cannot find native binding.*\n +→ run "npm ci"/m)
  assert.match(doctor.stdout, /^note +\/ip6\/::\/udp\/4115\/quic-v1 can not be listened on: QUIC.*\n +→ the node does without it/m)
})
