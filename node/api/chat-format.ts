import type { TokenLogprob } from '../driver/query.ts'
import { REPLACEMENT, type Format, type Part } from './format.ts'

/** Answers of POST /v1/chat/completions. */
export const CHAT_FORMAT: Format = {
  idPrefix: 'chatcmpl-',
  object: 'chat.completion',
  chunkObject: 'chat.completion.chunk',
  choice: (index, answer, finishReason) => ({
    index,
    message: { role: 'assistant', content: answer.text, refusal: null },
    logprobs: chatLogprobs(answer),
    finish_reason: finishReason,
  }),
  opening: (index) => ({ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }),
  delta: (index, part) => ({ index, delta: { content: part.text }, logprobs: chatLogprobs(part), finish_reason: null }),
  finish: (index, finishReason) => ({ index, delta: {}, logprobs: null, finish_reason: finishReason }),
}

function chatLogprobs({ logprobs }: Part): object | null {
  if (logprobs === null) return null
  return { content: logprobs.map((token) => ({ ...entry(token), top_logprobs: token.top.map(entry) })), refusal: null }
}

function entry({ text, logprob }: TokenLogprob): object {
  // The bytes of an incomplete character are not known from its text.
  return { token: text, logprob, bytes: text.includes(REPLACEMENT) ? null : [...Buffer.from(text)] }
}
