import { Xoshiro128 } from '../../node/engine/random.ts'

/** Beginnings that the embedded model goes on from for a hundred tokens. */
const PROMPTS = Object.freeze([
  'Once upon a time',
  'The little girl went to the park and',
  'One day, a big dog',
  'Tom and his mother were in the kitchen.',
  'There was a king who lived in a castle by the sea.',
  'It was a cold winter day, and the children',
])

const LONG_PROMPT = `Once upon a time there was a little girl who lived in a small house near the forest. Every day she went out to
play with her dog. The dog was big and brown, and he liked to run after the birds. One day they walked a long way into the forest and
found a pond. In the pond there was a frog who was very sad. "Why are you sad?" asked the girl. "I have lost my friend," said the frog.
"He went away to see the sea, and he did not come back." The girl thought about it, and then she said, "We will help you to find him."
So they all went together, over the hill and through the fields, until they came to the sea. The water was blue and the sun was warm.
There, on a big stone, sat another frog, and he was very happy to see them. They played all day long, and in the evening they`
  .split(/\s+/)
  .join(' ')

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'

/** The prompts in an order drawn from the seed. */
export function shuffledPrompts(seed: number): readonly string[] {
  const random = Xoshiro128.fromSeed(seed)
  const prompts = [...PROMPTS]
  for (let i = prompts.length - 1; i > 0; i--) {
    const j = Math.floor(random.nextFloat() * (i + 1))
    ;[prompts[i], prompts[j]] = [prompts[j]!, prompts[i]!]
  }
  return prompts
}

/** About 200 tokens, equally many for each number, that differ from the first word on. */
export function longPrompt(number: number): string {
  return `${LETTERS[number % LETTERS.length]} ${LONG_PROMPT}`
}
