/** Something under way that can be given up. */
export interface Cancellable {
  /** Nothing happens when it has ended. */
  cancel(reason: Error): void
}

/**
 * What is under way for one purpose, given up together; scopes can be part of another. Does for calls what an `AbortController` does:
 * making one for each call and listening to it takes longer than sending the call.
 */
export class CancelScope implements Cancellable {
  readonly #members = new Set<Cancellable>()
  #reason: Error | null = null
  #controller: AbortController | null = null

  get isCancelled(): boolean {
    return this.#reason !== null
  }

  /** Cancels all that was added and not deleted; the first reason counts. */
  cancel(reason: Error): void {
    if (this.#reason !== null) return
    this.#reason = reason
    this.#controller?.abort(reason)
    for (const member of this.#members) member.cancel(reason)
    this.#members.clear()
  }

  throwIfCancelled(): void {
    if (this.#reason !== null) throw this.#reason
  }

  /** Delete it when it has ended. Cancelled at once when the scope is. */
  add(member: Cancellable): void {
    if (this.#reason === null) this.#members.add(member)
    else member.cancel(this.#reason)
  }

  delete(member: Cancellable): void {
    this.#members.delete(member)
  }

  /** The scope for what takes a signal. */
  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#reason !== null) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }
}
