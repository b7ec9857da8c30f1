import { glibcFunctions } from './native-library.ts'
import type { NativeFunction } from './native-library.ts'
import type { Pointer } from './ort-api.ts'

interface Functions {
  readonly tryWait: NativeFunction
  readonly wait: NativeFunction
  readonly init: NativeFunction
  /** Address of sem_post. */
  readonly post: Pointer
}

/** At least sizeof(sem_t), of glibc on all its machines 32. */
const SEMAPHORE_BYTES = 64
/** Waking a thread takes as long as this many looks. */
const LOOKS = 200

let functions: Functions | null | undefined

/** A POSIX semaphore: what native code counts up, and this thread waits for. */
export class NativeSemaphore {
  readonly #functions: Functions
  readonly memory = new Uint8Array(new SharedArrayBuffer(SEMAPHORE_BYTES))

  private constructor(own: Functions) {
    this.#functions = own
    own.init(this.memory, 0, 0)
  }

  /** Null where the C library is not glibc, or koffi is not installed. */
  static create(): NativeSemaphore | null {
    if (functions === undefined) functions = load()
    return functions === null ? null : new NativeSemaphore(functions)
  }

  /** Address of a function that counts up the semaphore at the address it is given first. */
  get post(): Pointer {
    return this.#functions.post
  }

  /**
   * Blocks the thread until it has been counted up so many times since the last call. Without a limit: until then native code writes to
   * memory that the caller would free.
   */
  waitFor(count: number): void {
    for (let seen = 0, looks = 0; seen < count;) {
      if (this.#functions.tryWait(this.memory) === 0 || (++looks > LOOKS && this.#functions.wait(this.memory) === 0)) seen++
    }
  }
}

function load(): Functions | null {
  const found = glibcFunctions({
    tryWait: 'int sem_trywait(void *semaphore)',
    wait: 'int sem_wait(void *semaphore)',
    init: 'int sem_init(void *semaphore, int shared, unsigned int value)',
    addressOf: 'void *dlsym(void *library, const char *name)',
  })
  const post = found?.addressOf(null, 'sem_post') ?? null
  return found === null || post === null ? null : { ...found, post: post as Pointer }
}
