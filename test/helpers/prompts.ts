import { readFileSync } from 'node:fs'
import type { ChatMessage, QueryRequest } from '../../node/driver/query.ts'

/** An entry of test/golden/prompts.json, worded as the fields of the endpoint that takes it. */
export type Prompt = { readonly messages: readonly ChatMessage[] } | { readonly prompt: string }

/** The 50 prompts on which every split of the experts must give the same answer: stories, talks, plain text, code. */
export function goldenPrompts(): readonly Prompt[] {
  return JSON.parse(readFileSync(new URL('../golden/prompts.json', import.meta.url), 'utf8')) as Prompt[]
}

/** The same prompt as a driver takes it. */
export function inputOf(prompt: Prompt): QueryRequest['input'] {
  return 'messages' in prompt ? { kind: 'chat', messages: prompt.messages } : { kind: 'text', text: prompt.prompt }
}
