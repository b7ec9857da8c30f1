import type { QueryEvent, TokenLogprob } from '../driver/query.ts'

export type FinishReason = Extract<QueryEvent, { kind: 'end' }>['finishReason']

/** A token's log-probability with its alternatives. */
export type TokenChoice = TokenLogprob & { readonly top: readonly TokenLogprob[] }

/** A piece of a choice's text, or all of it. */
export interface Part {
  readonly text: string
  /** null when not asked for. */
  readonly logprobs: readonly TokenChoice[] | null
  /** Characters of the choice's tokens before this part. */
  readonly offset: number
}

/** How an endpoint words its answers: pure functions to the objects that clients expect in `choices`. */
export interface Format {
  readonly idPrefix: string
  readonly object: string
  readonly chunkObject: string
  /** A finished choice of an answer that is not streamed. */
  choice(index: number, answer: Part, finishReason: FinishReason): object
  /** What begins a choice in a stream, if anything does. */
  opening(index: number): object | null
  delta(index: number, part: Part): object
  finish(index: number, finishReason: FinishReason): object
}

/** What a token sequence decodes to while its last character is incomplete. */
export const REPLACEMENT = '\uFFFD'
