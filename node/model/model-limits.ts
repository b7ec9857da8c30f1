/** What a model may ask of a node at most; enforced on checkpoints and on manifests before anything is allocated. */
export const MODEL_LIMITS = Object.freeze({
  hiddenSize: 65_536,
  layers: 1_024,
  heads: 1_024,
  headDim: 1_024,
  vocabSize: 4_194_304,
  maxContext: 16_777_216,
  /** Expert numbers travel as 16 bits. */
  experts: 65_536,
  expertsPerToken: 256,
  expertSize: 262_144,
  eosTokenIds: 64,
  blobs: 65_536,
  /** A vocabulary of 256 Ki tokens with its merges takes about 32 MiB. */
  tokenizerFileBytes: 64 * 2 ** 20,
  manifestBytes: 32 * 2 ** 20,
})
