import { readJsonObject, writeFileAtomic } from '../model/files.ts'

/** Shards of one model that a node wants to hold again after a restart, by CID. */
export interface RememberedShards {
  readonly held: readonly string[]
  /** Those of them that placement must not give up. */
  readonly pinned: readonly string[]
  /** Shards whose blobs this node fetched and may delete again, the oldest first. */
  readonly fetched: readonly string[]
}

const MAX_BYTES = 16 * 2 ** 20

/** What was held at the last change, by model; empty when nothing is remembered. A damaged file is told to `onDamage` and counts as none. */
export async function readHoldings(file: string, onDamage: (error: Error) => void): Promise<ReadonlyMap<string, RememberedShards>> {
  try {
    const fields = await readJsonObject(file, MAX_BYTES)
    return new Map(Object.entries(fields ?? {}).map(([model, value]) => [model, shardsOf(value, file)]))
  } catch (error) {
    onDamage(error as Error)
    return new Map()
  }
}

export async function writeHoldings(file: string, holdings: ReadonlyMap<string, RememberedShards>): Promise<void> {
  await writeFileAtomic(file, `${JSON.stringify(Object.fromEntries(holdings))}\n`)
}

function shardsOf(value: unknown, file: string): RememberedShards {
  const { held, pinned, fetched } = (value ?? {}) as Record<string, unknown>
  if (!isTexts(held) || !isTexts(pinned) || !isTexts(fetched))
    throw new TypeError(`${file} does not list shards; what it held is chosen anew`)
  return { held, pinned, fetched }
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((entry) => typeof entry === 'string')
}
