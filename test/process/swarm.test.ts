/** Four real daemons (a gateway that hosts nothing, three hosts) as clients and people see them. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import OpenAI from 'openai'
import type { ExpertMap } from '../../node/api/services.ts'
import type { QueryReport } from '../../node/driver/query.ts'
import { EMBER_CHECKPOINT } from '../helpers/checkpoint.ts'
import { CLEAN_ENV, daemonSwarm, HOSTS, skein, statusOf } from '../helpers/daemon-swarm.ts'
import { until } from '../helpers/until.ts'

const QUESTION = 'Tell me a story about a dog.'
const MESSAGES = [{ role: 'user' as const, content: QUESTION }]

/** What the `skein` field of an answer or of a stream's last chunk holds; the client's types don't know it. */
function reportOf(answer: object): QueryReport {
  return (answer as { skein?: QueryReport }).skein!
}

describe('a swarm of four processes', { timeout: 240_000 }, () => {
  const swarm = daemonSwarm((daemons) => daemons.startFour())
  const client = (): OpenAI => new OpenAI({ baseURL: `${swarm().get('gateway').url}/v1`, apiKey: 'none', maxRetries: 0 })
  const hostPeers = (): Set<string> => new Set(HOSTS.map((name) => swarm().get(name).peer))

  test('lists its model', async () => {
    const { data } = await client().models.list()
    assert.deepEqual(
      data.map(({ id, object }) => [id, object]),
      [['ember', 'model']],
    )
    assert.equal((await client().models.retrieve('ember')).id, 'ember')
  })

  test('answers a chat, and tells who computed it', async () => {
    const answer = await client().chat.completions.create({ model: 'ember', messages: MESSAGES, max_tokens: 40, temperature: 0, seed: 3 })
    const [choice] = answer.choices
    assert.match(choice!.message.content!, /^Once upon a time/)
    assert.equal(choice!.finish_reason, 'length')
    assert.equal(answer.usage!.completion_tokens, 40)
    const report = reportOf(answer)
    assert.equal(report.exact, true)
    assert.equal(report.passes, 40)
    assert.equal(report.calls.local, 0)
    assert.ok(report.calls.remote >= 40 * 6)
    assert.ok(report.bytes.sent > 0 && report.bytes.received > 0)
    assert.ok(report.hosts.length >= 2)
    for (const host of report.hosts) assert.ok(hostPeers().has(host.peer))
    assert.deepEqual(new Set(report.hosts.flatMap(({ layers }) => layers)), new Set([0, 1, 2, 3, 4, 5]))
  })

  test('streams the answer that it gives in one piece', async () => {
    const request = {
      model: 'ember',
      messages: MESSAGES,
      max_tokens: 30,
      temperature: 0.8,
      seed: 11,
      skein: { wire: 'f32', combine: 'driver' },
    }
    const whole = await client().chat.completions.create(request)
    const stream = await client().chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })
    let text = ''
    let chunks = 0
    let usage: OpenAI.CompletionUsage | null | undefined
    let report: QueryReport | undefined
    for await (const chunk of stream) {
      chunks++
      text += chunk.choices[0]?.delta.content ?? ''
      usage = chunk.usage ?? usage
      report = reportOf(chunk) ?? report
    }
    assert.equal(text, whole.choices[0]!.message.content)
    assert.ok(chunks > 10, `${chunks} chunks`)
    assert.deepEqual(usage, whole.usage)
    assert.deepEqual([report!.exact, report!.wire, report!.combine, report!.seed], [true, 'f32', 'driver', 11])
  })

  test('completes plain text, streamed or not, with log-probabilities', async () => {
    const request = { model: 'ember', prompt: 'Once upon a time', max_tokens: 12, temperature: 0, logprobs: 2 }
    const whole = await client().completions.create(request)
    let text = ''
    for await (const chunk of await client().completions.create({ ...request, stream: true })) text += chunk.choices[0]?.text ?? ''
    assert.ok(text.length > 10)
    assert.equal(text, whole.choices[0]!.text)
    const { tokens, token_logprobs: logprobs } = whole.choices[0]!.logprobs!
    assert.equal(tokens!.join(''), text)
    assert.ok(logprobs!.length === 12 && logprobs!.every((logprob) => logprob <= 0))
  })

  test('equal seeds give equal answers, others do not', async () => {
    const ask = async (seed: number): Promise<string> => {
      const request = {
        model: 'ember',
        messages: MESSAGES,
        max_tokens: 24,
        temperature: 1,
        seed,
        skein: { wire: 'f32', combine: 'driver' },
      }
      return (await client().chat.completions.create(request)).choices[0]!.message.content!
    }
    const answers = await Promise.all([5, 5, 6, 7].map(ask))
    assert.equal(answers[0], answers[1])
    assert.equal(new Set(answers).size, 3)
  })

  test('several choices, a stop string and a system message', async () => {
    const answer = await client().chat.completions.create({
      model: 'ember',
      messages: [{ role: 'system', content: 'You tell stories.' }, ...MESSAGES],
      max_tokens: 60,
      n: 2,
      seed: 1,
      stop: ['.'],
    })
    assert.equal(answer.choices.length, 2)
    for (const { message } of answer.choices) assert.ok(!message.content!.includes('.'))
    assert.ok(answer.choices.some(({ finish_reason: reason }) => reason === 'stop'))
  })

  test('twelve questions at once are all answered as each alone', async () => {
    const ask = async (i: number): Promise<string> => {
      const messages = [{ role: 'user' as const, content: `Tell me a story about ${i} cats.` }]
      const request = { model: 'ember', messages, max_tokens: 10, temperature: 0, skein: { wire: 'f32', combine: 'driver' } }
      return (await client().chat.completions.create(request)).choices[0]!.message.content!
    }
    const numbers = Array.from({ length: 12 }, (_, i) => i + 2)
    const together = await Promise.all(numbers.map(ask))
    for (const i of [0, 7]) assert.equal(await ask(numbers[i]!), together[i])
  })

  test('shows its health, its metrics and its swarm', async () => {
    const { url } = swarm().get('gateway')
    const health = await fetch(`${url}/health`)
    assert.equal(health.status, 200)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    assert.match(metrics, /^skein_http_requests_total\{route="\/v1\/chat\/completions",status="200"\} [1-9]/m)
    assert.match(metrics, /^skein_event_loop_active_seconds_total \d*\.?\d*[1-9]/m)
    const status = await statusOf(url)
    assert.equal(status.ready, true)
    assert.equal(status.swarm, swarm().name)
    assert.deepEqual(new Set(status.peers.map(({ name }) => name)), new Set(HOSTS))
    for (const peer of status.peers) assert.ok(peer.connected && peer.experts === 64 && peer.callsSent > 0 && peer.callsFailed === 0)
    assert.deepEqual(status.models[0]!.coverage, { experts: 96, covered: 96, minReplicas: 2, complete: true, missing: [], missingBytes: 0 })
    const page = await fetch(`${url}/`)
    assert.match(page.headers.get('content-type')!, /text\/html/)
  })

  test('a host shows what the gateway routed, and answers questions itself', async () => {
    const host = swarm().get('host-2')
    await until(async () => (await statusOf(host.url)).routing[0]!.tokens > 40, { what: 'routing counts reach a host' })
    const alone = new OpenAI({ baseURL: `${host.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const answer = await alone.chat.completions.create({ model: 'ember', messages: MESSAGES, max_tokens: 8, temperature: 0 })
    const { calls, exact } = reportOf(answer)
    assert.equal(exact, true)
    assert.ok(calls.local > 0, 'the host uses its own experts')
  })

  test('every node has the same map of what the swarm uses and covers', async () => {
    const mapOf = async (name: string) =>
      ((await (await fetch(`${swarm().get(name).url}/api/experts`)).json()) as { models: ExpertMap[] }).models[0]!
    const host = await until(
      async () => {
        const map = await mapOf('host-3')
        return map.pairs.length > 0 && map.authors > 0 ? map : null
      },
      { what: 'heat reaches a host that drives nothing' },
    )
    const { layers, experts, coverage } = host
    assert.deepEqual([layers, experts, coverage.covered, coverage.minReplicas, coverage.complete], [6, 16, 96, 2, true])
    for (const rows of [host.rates, host.tokens, host.hosts]) {
      assert.equal(rows.length, layers)
      for (const row of rows) assert.equal(row.length, experts)
    }
    assert.ok(host.rates.flat().some((rate) => rate > 0))
    for (const { layer, a, b, rate } of host.pairs) assert.ok(layer < layers && a < b && b < experts && rate > 0)
    assert.deepEqual((await mapOf('gateway')).hosts, host.hosts)
  })

  test('skein status, ask and models speak with the daemon of a data directory', async () => {
    const data = ['--data', `${swarm().dir}/gateway`]
    const status = await skein(['status', ...data])
    assert.equal(status.code, 0, status.stderr)
    assert.match(status.stdout, /^swarm {2}\S+ {2}ready$/m)
    for (const name of HOSTS) assert.match(status.stdout, new RegExp(`${name} +connected`))
    const json = await skein(['status', '--json', '--api', swarm().get('host-1').url])
    assert.equal((JSON.parse(json.stdout) as { peer: string }).peer, swarm().get('host-1').peer)

    const asked = await skein(['ask', ...data, '--max-tokens', '12', '--temperature', '0', '--report', ...QUESTION.split(' ')])
    assert.equal(asked.code, 0, asked.stderr)
    assert.match(asked.stdout, /^Once upon a time/)
    assert.match(asked.stdout, /exact: true/)

    const models = await skein(['models', ...data, '--store', swarm().storeDir])
    assert.equal(models.code, 0, models.stderr)
    assert.match(models.stdout, /^ember +\S+ +f32 /m)
  })

  test('skein pack makes a model that a daemon serves', async () => {
    const data = `${swarm().dir}/packer`
    const packed = await skein(['pack', EMBER_CHECKPOINT, '--quant', 'q8', '--name', 'ember-small', '--data', data])
    assert.equal(packed.code, 0, packed.stderr)
    assert.match(packed.stdout, /^packed ember-small in /)
    const listed = await skein(['models', '--data', data])
    assert.match(listed.stdout, /^ember-small +\S+ +q8 /m)
    const daemon = await swarm().start('packer', ['--store', `${data}/blobs`, '--model', 'ember-small', '--host', 'all'])
    const alone = new OpenAI({ baseURL: `${daemon.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const answer = await alone.chat.completions.create({ model: 'ember-small', messages: MESSAGES, max_tokens: 8, temperature: 0 })
    assert.ok(answer.choices[0]!.message.content!.length > 0)
    await daemon.stop()
    assert.equal(await daemon.exited, 0)
  })

  test('the command can be parsed by any Node, and finds the right one itself', async (t) => {
    const shim = fileURLToPath(new URL('../../node/skein.js', import.meta.url))
    const source = await readFile(shim, 'utf8')
    assert.deepEqual(
      [...source.matchAll(/^import .* from '([^']+)'/gm)].map(([, from]) => from!).filter((from) => !from.startsWith('node:')),
      [],
      'a static import would be loaded, and TypeScript rejected, before the version is looked at',
    )
    const old = (process.env['PATH'] ?? '')
      .split(':')
      .filter((dir) => dir !== '' && !dir.includes('node_modules'))
      .map((dir) => `${dir}/node`)
    let tried = 0
    for (const node of new Set(old)) {
      const run = await skein(['--version'], { node, env: { ...CLEAN_ENV, NODE_OPTIONS: '' } })
      if (run.code === 'ENOENT') continue
      assert.equal(run.code, 0, run.stderr)
      assert.match(run.stdout, /^\d+\.\d+\.\d+\n$/)
      tried++
    }
    t.diagnostic(`run by ${tried} other Node binaries of the path`)
  })
})
