import { ModelError } from '../../errors.ts'

const PREFIX = 'hf:'
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/
const REVISION = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$/
const EXAMPLE = 'expected hf:org/name, hf:org/name@revision, or hf:org/name:file.gguf'

/** A model on a hub that speaks Hugging Face's protocol. */
export interface HubReference {
  /** `org/name`. */
  readonly repo: string
  /** Branch, tag or commit. */
  readonly revision: string
  /** A GGUF file of the repository, where one was named. */
  readonly file?: string
}

export function isHubReference(text: string): boolean {
  return text.startsWith(PREFIX)
}

/** Reads `hf:org/name[@revision][:file.gguf]`. Throws `ModelError`. */
export function parseHubReference(text: string): HubReference {
  const [, repo = '', revision = 'main', file] = /^hf:([^@:]*)(?:@([^:]*))?(?::(.*))?$/s.exec(text) ?? []
  const names = repo.split('/')
  if (names.length !== 2 || !names.every((name) => NAME.test(name)) || repo.includes('..')) {
    throw new ModelError(`${JSON.stringify(text.slice(0, 200))} names no model of a hub: ${EXAMPLE}`)
  }
  if (!REVISION.test(revision) || revision.includes('..'))
    throw new ModelError(`${JSON.stringify(revision.slice(0, 200))} is no revision: ${EXAMPLE}`)
  if (file === undefined) return { repo, revision }
  if (!isSafePath(file) || !file.toLowerCase().endsWith('.gguf'))
    throw new ModelError(`${JSON.stringify(file.slice(0, 200))} is no GGUF file's name: ${EXAMPLE}`)
  return { repo, revision, file }
}

/** Whether a path of a repository stays inside the folder that it is put into. */
export function isSafePath(path: string): boolean {
  return path.length <= 512 && path.split('/').every((part) => /^[\p{L}\p{N}_][\p{L}\p{N} ._+-]*$/u.test(part))
}
