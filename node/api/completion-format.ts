import type { Format, Part, TokenChoice } from './format.ts'

/** Answers of POST /v1/completions; a stream's chunks have the same shape as the whole. */
export const COMPLETION_FORMAT: Format = {
  idPrefix: 'cmpl-',
  object: 'text_completion',
  chunkObject: 'text_completion',
  choice: (index, answer, finishReason) => ({
    index,
    text: answer.text,
    logprobs: completionLogprobs(answer),
    finish_reason: finishReason,
  }),
  opening: () => null,
  delta: (index, part) => ({ index, text: part.text, logprobs: completionLogprobs(part), finish_reason: null }),
  finish: (index, finishReason) => ({ index, text: '', logprobs: null, finish_reason: finishReason }),
}

function completionLogprobs({ logprobs, offset }: Part): object | null {
  if (logprobs === null) return null
  let end = offset
  return {
    tokens: logprobs.map((token) => token.text),
    token_logprobs: logprobs.map((token) => token.logprob),
    top_logprobs: logprobs.map(byText),
    text_offset: logprobs.map((token) => (end += token.text.length) - token.text.length),
  }
}

/** Alternatives by their text, the chosen token among them; of tokens with equal text the likeliest stays. */
function byText(token: TokenChoice): Record<string, number> {
  const entries: Record<string, number> = Object.create(null)
  for (const { text, logprob } of [...token.top, token]) entries[text] = Math.max(entries[text] ?? -Infinity, logprob)
  return entries
}
