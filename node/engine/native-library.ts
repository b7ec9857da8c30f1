import { createRequire } from 'node:module'

/** A function of a shared library; `async` runs it in another thread and calls its last argument once it has ended. */
export interface NativeFunction {
  (...args: unknown[]): unknown
  async(...args: unknown[]): void
}

/** What is used of koffi, which calls functions of shared libraries. */
interface Koffi {
  load(path: string): { func(declaration: string): NativeFunction }
  proto(declaration: string): unknown
  array(type: string, length: number): unknown
  decode(pointer: unknown, type: unknown): unknown
  address(memory: ArrayBufferView): bigint
}

/** Throws where it is not installed: it is an optional dependency. */
export function loadKoffi(): Koffi {
  return createRequire(import.meta.url)('koffi') as Koffi
}

/** Functions of the C library by their declarations; null where it is another one or lacks one of them, or koffi is not installed. */
export function glibcFunctions<Name extends string>(
  declarations: Readonly<Record<Name, string>>,
): Readonly<Record<Name, NativeFunction>> | null {
  if (process.platform !== 'linux') return null
  try {
    const library = loadKoffi().load('libc.so.6')
    const entries = Object.entries<string>(declarations).map(([name, declaration]) => [name, library.func(declaration)] as const)
    return Object.fromEntries(entries) as Record<Name, NativeFunction>
  } catch {
    return null
  }
}
