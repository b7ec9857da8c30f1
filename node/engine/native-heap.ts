import { MMAP_THRESHOLD_BYTES } from '../process-environment.ts'
import { glibcFunctions } from './native-library.ts'
import type { NativeFunction } from './native-library.ts'

interface Malloc {
  /** Returns 0 for a setting that it does not know. */
  readonly mallopt: NativeFunction
  readonly mallocTrim: NativeFunction
}

/** Of mallopt(3). */
const M_TRIM_THRESHOLD = -1
const M_MMAP_THRESHOLD = -3
const DEFAULT_TRIM_THRESHOLD_BYTES = 128 * 1024
/** Buffers of up to this much (the most that glibc takes) are reused, so that their pages need not be cleared by the system again. */
const REUSED_BYTES = 32 * 2 ** 20
const KEPT_FREE_BYTES = 32 * 2 ** 20
/** Shards are mostly loaded one after the other. Each leaves about half its size in holes between what stays. */
const GIVE_BACK_AFTER_MS = 500
const MAX_ACTS_BETWEEN = 8

let malloc: Malloc | null | undefined
let underWay = 0
let sinceGivenBack = 0
let timer: NodeJS.Timeout | null = null

/**
 * Has the C library reuse the large buffers that are freed while weights pass through it, and gives all of them back to the system soon
 * after the last act: opening a session then takes a quarter less time. Where there is no glibc, or no koffi, it only acts.
 */
export async function reusingFreedBuffers<T>(act: () => Promise<T>): Promise<T> {
  if (malloc === undefined)
    malloc = glibcFunctions({ mallopt: 'int mallopt(int name, int value)', mallocTrim: 'int malloc_trim(size_t pad)' })
  if (malloc === null) return await act()
  if (timer !== null) clearTimeout(timer)
  timer = null
  if (underWay++ === 0) {
    malloc.mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
    malloc.mallopt(M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
  }
  try {
    return await act()
  } finally {
    underWay--
    // Whatever else passes through large buffers meanwhile, such as the hashing of the next shard, should not leave them behind.
    if (underWay === 0) malloc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    if (++sinceGivenBack >= MAX_ACTS_BETWEEN) giveBack(malloc)
    else if (underWay === 0) timer = setTimeout(giveBack, GIVE_BACK_AFTER_MS, malloc).unref()
  }
}

function giveBack(library: Malloc): void {
  timer = null
  sinceGivenBack = 0
  if (underWay === 0) library.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD_BYTES)
  // Some milliseconds, in a thread of koffi's.
  library.mallocTrim.async(0, () => {})
}
