/** What has to be mended in the classes of node-datachannel 0.33.4 that `@libp2p/webrtc` 6.0.33 uses. */

interface Connection extends EventTarget {
  setRemoteDescription: (description: never) => Promise<void>
}

/**
 * Ends channels on which text comes. libp2p sends bytes only, but its library takes a text for a number of bytes to allocate, so that a
 * peer could end the process with one.
 */
export function refuseText(channels: EventTarget): void {
  channels.dispatchEvent = function (this: EventTarget & { close(): void }, event: Event): boolean {
    if (typeof (event as MessageEvent).data !== 'string') return EventTarget.prototype.dispatchEvent.call(this, event)
    this.close()
    return true
  }
}

/**
 * Holds back where a side can be reached until it knows the other's certificate. The native part opens ICE to the other side a moment
 * before it stores the certificate's fingerprint; a handshake that fits in between, as between two nodes on one busy machine, would fail.
 */
export function holdCandidates(connections: Connection): void {
  /** Until the other side's description was taken: what is held back. */
  const held = new WeakMap<Connection, Event[] | null>()
  const setRemoteDescription = connections.setRemoteDescription
  connections.dispatchEvent = function (this: Connection, event: Event): boolean {
    const events = held.get(this)
    if (event.type !== 'icecandidate' || events === null) return EventTarget.prototype.dispatchEvent.call(this, event)
    held.set(this, [...(events ?? []), event])
    return true
  }
  connections.setRemoteDescription = async function (this: Connection, description: never): Promise<void> {
    await setRemoteDescription.call(this, description)
    const events = held.get(this) ?? []
    held.set(this, null)
    for (const event of events) this.dispatchEvent(event)
  }
}
