import * as Y from 'yjs'
import { LIMITS, ROOT, TOPIC_NAME, clientIdOf } from './schema.ts'
import { RejectedRecordError } from './rejection.ts'

/** One epoch of this node's own document. Its size depends on what it holds now, not on how often that was written. */
export class AuthorDocument {
  readonly #doc = new Y.Doc()
  readonly #author: string
  readonly #epoch: number

  constructor(author: string, epoch: number) {
    this.#author = author
    this.#epoch = epoch
  }

  set(topic: string, bytes: Uint8Array): void {
    this.#doc.clientID = clientIdOf(this.#author, this.#epoch, topic)
    // A copy, so that a later change of the caller's array doesn't change the document.
    this.#doc.getMap<Uint8Array>(ROOT).set(topic, bytes.slice())
  }

  /** The whole document as one update. */
  encode(): Uint8Array {
    return Y.encodeStateAsUpdate(this.#doc)
  }
}

/**
 * Reads a whole document that `author` is said to have written in `epoch`: topic → packed bytes, unknown topics included.
 * Throws `RejectedRecordError`: `foreign-client` when anything in it was written under another client id, `foreign-root` when it
 * lies in another root, `update` when it is not a document of packed topics at all.
 */
export function readAuthorUpdate(update: Uint8Array, author: string, epoch: number): ReadonlyMap<string, Uint8Array> {
  let decoded: ReturnType<typeof Y.decodeUpdate>
  try {
    decoded = Y.decodeUpdate(update)
  } catch (error) {
    throw new RejectedRecordError('update', 'the update can not be decoded', { cause: error })
  }
  if (decoded.structs.length > LIMITS.maxStructs) {
    throw new RejectedRecordError('update', `${decoded.structs.length} structs exceed ${LIMITS.maxStructs}`)
  }
  const lengths = checkStructs(decoded.structs, author, epoch)
  if (lengths.size > LIMITS.maxTopics) throw new RejectedRecordError('update', `${lengths.size} topics exceed ${LIMITS.maxTopics}`)
  for (const [client, ranges] of decoded.ds.clients) {
    const length = lengths.get(client)
    if (length === undefined) throw new RejectedRecordError('foreign-client', `deletes what client ${client} wrote`)
    for (const range of ranges) {
      if (range.clock + range.len > length) throw new RejectedRecordError('update', 'deletes what is not there')
    }
  }
  return readTopics(update, author)
}

type Struct = ReturnType<typeof Y.decodeUpdate>['structs'][number]

/** Every client's structs must be the overwrites of one key of the root, from the first, in order. Returns client → their count. */
function checkStructs(structs: readonly Struct[], author: string, epoch: number): ReadonlyMap<number, number> {
  const lengths = new Map<number, number>()
  for (const struct of structs) {
    if (!(struct instanceof Y.Item)) throw new RejectedRecordError('update', `holds a ${struct.constructor.name}`)
    const { client, clock } = struct.id
    const before = lengths.get(client)
    if (before === undefined) checkFirst(struct, author, epoch)
    else {
      const follows = clock === before && struct.origin?.client === client && struct.origin.clock === before - 1
      if (!follows || struct.parent !== null) throw new RejectedRecordError('update', 'a value does not replace the one before it')
    }
    if (struct.rightOrigin !== null) throw new RejectedRecordError('update', 'a value lies left of another')
    if (!(struct.content instanceof Y.ContentBinary) && !(struct.content instanceof Y.ContentDeleted)) {
      throw new RejectedRecordError('update', `holds ${struct.content.constructor.name} in place of packed bytes`)
    }
    const length = clock + struct.length
    if (struct.length < 1 || !Number.isSafeInteger(length)) throw new RejectedRecordError('update', 'a struct of impossible length')
    lengths.set(client, length)
  }
  return lengths
}

function checkFirst(struct: Y.Item, author: string, epoch: number): void {
  const { client, clock } = struct.id
  // Yjs leaves the root's name in `parent` until the update is integrated, whatever the declared type says.
  const parent: unknown = struct.parent
  const topic: unknown = struct.parentSub
  if (typeof parent === 'string' && parent !== ROOT) throw new RejectedRecordError('foreign-root', 'writes to another root')
  const isKey = parent === ROOT && typeof topic === 'string' && TOPIC_NAME.test(topic)
  if (!isKey || clock !== 0 || struct.origin !== null) throw new RejectedRecordError('update', 'does not begin with a topic of the root')
  if (client !== clientIdOf(author, epoch, topic)) {
    throw new RejectedRecordError('foreign-client', `client ${client} may not write topic ${topic} of ${author}`)
  }
}

function readTopics(update: Uint8Array, author: string): ReadonlyMap<string, Uint8Array> {
  // A name of its own would be drawn at random, which costs more than reading the document.
  const doc = new Y.Doc({ guid: author })
  try {
    Y.applyUpdate(doc, update)
    const topics = new Map<string, Uint8Array>()
    for (const [topic, value] of doc.getMap<unknown>(ROOT)) {
      if (!(value instanceof Uint8Array)) throw new RejectedRecordError('update', `topic ${topic} is not bytes`)
      if (value.length > LIMITS.maxTopicBytes) throw new RejectedRecordError('topic', `topic ${topic} of ${value.length} bytes`)
      topics.set(topic, value)
    }
    return topics
  } catch (error) {
    if (error instanceof RejectedRecordError) throw error
    throw new RejectedRecordError('update', 'the update can not be applied', { cause: error })
  } finally {
    doc.destroy()
  }
}
