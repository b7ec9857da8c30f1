import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { readEventStream } from '../../../node/cli/event-stream.ts'

async function read(response: Response): Promise<string[]> {
  const out: string[] = []
  for await (const data of readEventStream(response)) out.push(data)
  return out
}

const streamOf = (chunks: readonly Uint8Array[]): Response => new Response(ReadableStream.from(chunks))

test('data lines come out one by one; comments, other fields and what is not finished stay in', async () => {
  const text = ': hello\n\ndata: {"a":1}\n\nevent: x\ndata:[DONE]\r\n\ndata: unfinished'
  assert.deepEqual(await read(new Response(text)), ['{"a":1}', '[DONE]'])
})

test('a response without a body has no events', async () => {
  assert.deepEqual(await read(new Response(null)), [])
})

test('wherever the bytes are cut, even within a character, the same events come out', async () => {
  const bytes = new TextEncoder().encode('data: Zoë 網 🦊\n\n: beat\n\ndata: [DONE]\n\n')
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(fc.integer({ min: 1, max: bytes.length - 1 }), { maxLength: 10 }), async (cuts) => {
      const edges = [0, ...cuts.sort((a, b) => a - b), bytes.length]
      const chunks = edges.slice(1).map((end, i) => bytes.subarray(edges[i], end))
      assert.deepEqual(await read(streamOf(chunks)), ['Zoë 網 🦊', '[DONE]'])
    }),
  )
})

test('a reader that stops early ends the download', async () => {
  let cancelled = false
  const endless = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new TextEncoder().encode('data: again\n\n')),
    cancel: () => {
      cancelled = true
    },
  })
  for await (const data of readEventStream(new Response(endless))) {
    assert.equal(data, 'again')
    break
  }
  assert.equal(cancelled, true)
})
