/** Files that a tokenizer and its chat template are read from, as a package carries them. */
export const TOKENIZER_FILES = Object.freeze(['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'] as const)
export type TokenizerFile = (typeof TOKENIZER_FILES)[number]
