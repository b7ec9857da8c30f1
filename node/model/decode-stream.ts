/** Tokens to text, piece by piece; a character split over tokens comes out whole. */
export interface DecodeStream {
  /** Text that is certain once this token is known; may be empty. */
  push(id: number): string
  /** What is still held back: an incomplete character comes out as U+FFFD. */
  flush(): string
}

const REPLACEMENT = '\uFFFD'
/** A character takes at most 4 tokens; what is longer without becoming valid never will. */
const MAX_HELD_TOKENS = 16
/** Enough for decoders that treat the start of a text differently. */
export const CONTEXT_TOKENS = 6

/**
 * `decode` turns ids into text. `context` are the tokens before the first one pushed; they are not part of the output.
 * Each step decodes only a short window: the last piece that was given out, and what came since.
 */
export function createDecodeStream(decode: (ids: readonly number[]) => string, context: readonly number[] = []): DecodeStream {
  const start = context.slice(-CONTEXT_TOKENS)
  // The window is `done` tokens that have been given out, then those that are held.
  let window = start.length > 0 && !decode(start).endsWith(REPLACEMENT) ? [...start] : []
  let done = window.length
  const emit = (): string => {
    const text = decode(window).slice(decode(window.slice(0, done)).length)
    window = window.slice(done)
    done = window.length
    return text
  }
  return {
    push: (id) => {
      window.push(id)
      const isIncomplete = decode(window).endsWith(REPLACEMENT)
      return isIncomplete && window.length - done < MAX_HELD_TOKENS ? '' : emit()
    },
    flush: () => (window.length > done ? emit() : ''),
  }
}
