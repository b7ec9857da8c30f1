/** Every bound of the HTTP face, with its reason; `ApiInit` overrides those that a deployment or a test may need otherwise. */
export const LIMITS = Object.freeze({
  /** Largest request body: a full 128 k context is about half a megabyte of text, as token numbers about one. */
  bodyBytes: 4 * 1024 * 1024,
  /** `n`: each choice is a whole generation. */
  choicesPerPrompt: 8,
  /** Prompts times `n`: one request must not occupy the node for hours. */
  choices: 32,
  /** Far beyond what fits a context of today's models. */
  messages: 4096,
  parts: 256,
  promptTokens: 1024 * 1024,
  /** OpenAI takes 4; local clients (agents, editors) send more. */
  stops: 16,
  /** A stop string holds back as much text while it may still be completed. */
  stopChars: 256,
  /** OpenAI's bound of `top_logprobs`. */
  topLogprobs: 20,
  modelNameChars: 256,
  /** A list of ranges for every shard of a large model. */
  holdingsChars: 64 * 1024,
  /** Receiving a request's head, then the whole of it: frees what slow or dead clients hold. */
  headMs: 15_000,
  receiveMs: 60_000,
  /** One request's generation, all choices together. */
  queryMs: 30 * 60_000,
  /** Proxies commonly cut connections that are silent for 30 or 60 s. */
  keepAliveMs: 15_000,
  /** A client that takes nothing from its stream for as long is gone. */
  stallMs: 60_000,
  /** How long `stop` lets responses finish before it cuts their connections. */
  stopGraceMs: 2_000,
  connections: 512,
  /** Asked of clients when the node is full; the real wait is unknown. */
  retryAfterSeconds: 1,
})

/** OpenAI's default of `max_tokens` on /v1/completions; chat runs to the end of the context. */
export const COMPLETION_MAX_TOKENS = 16
