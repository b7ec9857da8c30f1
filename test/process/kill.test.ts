/**
 * `kill -9` of a host in the middle of an answer, twenty times: each time the tokens are those of the undisturbed run. With f32 on the
 * wire and sums at the driver that holds to the last bit, whoever computes what; with the default wire the rounding of the partial sums
 * depends on the split, so there the number of equal answers is reported, and every answer must still be whole.
 */
import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { describe, test } from 'node:test'
import { readEventStream } from '../../node/cli/event-stream.ts'
import type { QueryReport } from '../../node/driver/query.ts'
import { daemonSwarm, HOSTS, untilServing } from '../helpers/daemon-swarm.ts'
import { seededRandom } from '../helpers/ledger.ts'

const RUNS = 20
/** Every so many runs a second answer with the default wire is under way when the host dies. */
const DEFAULT_WIRE_EVERY = 4
const MAX_TOKENS = 32
const LAST_MOMENT = 26
const EXACT = Object.freeze({ wire: 'f32', combine: 'driver' })

interface Question {
  readonly content: string
  readonly temperature: number
  readonly seed: number
}

const QUESTIONS: readonly Question[] = [
  { content: 'Tell me a story about a dog.', temperature: 0, seed: 1 },
  { content: 'Tell me a fairy tale about a king.', temperature: 0.9, seed: 42 },
  { content: 'Write a short story about a boat and a star.', temperature: 0, seed: 1 },
  { content: 'Tell me a story about a rabbit.', temperature: 1.2, seed: 7 },
]

interface Token {
  readonly token: string
  readonly logprob: number
}

interface StreamedAnswer {
  readonly tokens: readonly Token[]
  readonly report: QueryReport
}

/** Streams an answer; `onToken` hears how many tokens have come, first of none when the answer begins. */
async function stream(url: string, question: Question, skein: object, onToken: (count: number) => void): Promise<StreamedAnswer> {
  const { content, temperature, seed } = question
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'ember',
      messages: [{ role: 'user', content }],
      max_tokens: MAX_TOKENS,
      temperature,
      seed,
      logprobs: true,
      stream: true,
      skein,
    }),
  })
  assert.equal(response.status, 200)
  onToken(0)
  const tokens: Token[] = []
  let report: QueryReport | null = null
  for await (const data of readEventStream(response)) {
    if (data === '[DONE]') break
    const chunk = JSON.parse(data) as {
      error?: { message: string }
      choices?: { logprobs?: { content: Token[] } | null }[]
      skein?: QueryReport
    }
    assert.equal(chunk.error, undefined, chunk.error?.message)
    report = chunk.skein ?? report
    for (const { token, logprob } of chunk.choices?.[0]?.logprobs?.content ?? []) tokens.push({ token, logprob })
    onToken(tokens.length)
  }
  assert.notEqual(report, null, 'the answer broke off')
  return { tokens, report: report! }
}

function textOf({ tokens }: StreamedAnswer): string {
  return tokens.map(({ token }) => token).join('')
}

describe('kill -9 of a host while it answers', { timeout: 280_000 }, () => {
  const swarm = daemonSwarm((daemons) => daemons.startFour())

  test(`${RUNS} of ${RUNS} runs give the undisturbed answer`, { timeout: 240_000 }, async (t) => {
    const seed = randomInt(2 ** 31)
    const random = seededRandom(seed)
    t.diagnostic(`seed ${seed}`)
    const { url } = swarm().get('gateway')
    const undisturbed = new Map<Question, { exact: StreamedAnswer; byDefault: StreamedAnswer }>()
    for (const question of QUESTIONS) {
      const exact = await stream(url, question, EXACT, () => {})
      undisturbed.set(question, { exact, byDefault: await stream(url, question, {}, () => {}) })
      assert.ok(exact.tokens.length > LAST_MOMENT, `the answer to "${question.content}" is too short to be disturbed`)
    }
    assert.equal(new Set([...undisturbed.values()].map(({ exact }) => textOf(exact))).size, QUESTIONS.length)

    let retried = 0
    let defaults = 0
    let defaultsEqual = 0
    const startedAt = performance.now()
    for (let run = 0; run < RUNS; run++) {
      const question = QUESTIONS[run % QUESTIONS.length]!
      const expected = undisturbed.get(question)!
      const name = HOSTS[Math.floor(random() * HOSTS.length)]!
      const moment = Math.floor(random() * (LAST_MOMENT + 1))
      const where = `run ${run}: ${name} killed after ${moment} tokens (seed ${seed})`
      const host = swarm().get(name)
      let killing: Promise<void> | null = null
      const second = run % DEFAULT_WIRE_EVERY === DEFAULT_WIRE_EVERY - 1 ? stream(url, question, {}, () => {}) : null
      const answer = await stream(url, question, EXACT, (tokens) => {
        if (tokens >= moment) killing ??= host.kill()
      })
      await killing!
      assert.equal(await host.exited, 'SIGKILL')
      assert.deepEqual(answer.tokens, expected.exact.tokens, where)
      assert.equal(answer.report.exact, true, where)
      retried += answer.report.calls.retried
      if (second !== null) {
        const other = await second
        assert.equal(other.report.exact, true, where)
        defaults++
        if (textOf(other) === textOf(expected.byDefault)) defaultsEqual++
      }

      const again = await swarm().startHost(name)
      assert.equal(again.peer, host.peer, 'the same peer comes back')
      await untilServing(url, HOSTS.length, 2)
    }
    t.diagnostic(`${RUNS} of ${RUNS} runs equal to the last bit, ${retried} calls retried, ${Math.round(performance.now() - startedAt)} ms`)
    t.diagnostic(`with the default wire ${defaultsEqual} of ${defaults} answers have the undisturbed tokens`)
    assert.ok(retried > 0, 'no kill hit a call under way or a host in use')
  })

  test('a host that was killed and came back serves on its own', { timeout: 60_000 }, async () => {
    const { url } = swarm().get('gateway')
    const [first, second, third] = HOSTS.map((name) => swarm().get(name))
    const expected = await stream(url, QUESTIONS[0]!, EXACT, () => {})
    await first!.kill()
    const answer = await stream(url, QUESTIONS[0]!, EXACT, () => {})
    assert.deepEqual(answer.tokens, expected.tokens)
    assert.deepEqual(new Set(answer.report.hosts.map(({ peer }) => peer)), new Set([second!.peer, third!.peer]))

    await second!.kill()
    const failed = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'ember', prompt: 'Once upon a time' }),
    })
    const { error } = (await failed.json()) as { error: { code: string; message: string } }
    assert.deepEqual([failed.status, error.code], [503, 'no_route'])
    assert.match(error.message, /expert \d+ of layer \d/)

    await swarm().startHost(HOSTS[1]!)
    await untilServing(url, 2, 1)
    assert.deepEqual((await stream(url, QUESTIONS[0]!, EXACT, () => {})).tokens, expected.tokens)
  })
})
