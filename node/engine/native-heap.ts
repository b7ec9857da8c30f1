import { createRequire } from 'node:module'
import { MMAP_THRESHOLD_BYTES } from '../process-environment.ts'

/** What is used of koffi, which calls functions of shared libraries. */
interface Koffi {
  load(path: string): { func(declaration: string): NativeFunction }
}
interface NativeFunction {
  (...args: number[]): number
  async(...args: unknown[]): void
}

interface Glibc {
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

let glibc: Glibc | null | undefined
let underWay = 0
let sinceGivenBack = 0
let timer: NodeJS.Timeout | null = null

/**
 * Has the C library reuse the large buffers that are freed while weights pass through it, and gives all of them back to the system soon
 * after the last act: opening a session then takes a quarter less time. Where there is no glibc, or no koffi, it only acts.
 */
export async function reusingFreedBuffers<T>(act: () => Promise<T>): Promise<T> {
  if (glibc === undefined) glibc = loadGlibc()
  if (glibc === null) return await act()
  if (timer !== null) clearTimeout(timer)
  timer = null
  if (underWay++ === 0) {
    glibc.mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
    glibc.mallopt(M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
  }
  try {
    return await act()
  } finally {
    underWay--
    // Whatever else passes through large buffers meanwhile, such as the hashing of the next shard, should not leave them behind.
    if (underWay === 0) glibc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    if (++sinceGivenBack >= MAX_ACTS_BETWEEN) giveBack(glibc)
    else if (underWay === 0) timer = setTimeout(giveBack, GIVE_BACK_AFTER_MS, glibc).unref()
  }
}

function giveBack(library: Glibc): void {
  timer = null
  sinceGivenBack = 0
  if (underWay === 0) library.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD_BYTES)
  // Some milliseconds, in a thread of koffi's.
  library.mallocTrim.async(0, () => {})
}

function loadGlibc(): Glibc | null {
  if (process.platform !== 'linux') return null
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi
    const library = koffi.load('libc.so.6')
    return { mallopt: library.func('int mallopt(int name, int value)'), mallocTrim: library.func('int malloc_trim(size_t pad)') }
  } catch {
    // Another C library, or koffi was not installed: memory is used as it would be anyway.
    return null
  }
}
