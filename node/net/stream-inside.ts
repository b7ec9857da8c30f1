import type { Stream } from '@libp2p/interface'

export type Bytes = Parameters<Stream['send']>[0]

/** The inside of `@libp2p/utils`' streams, of which both connections and yamux's streams are. */
export interface StreamInside {
  readonly readStatus: string
  readonly readBuffer: { readonly byteLength: number }
  readonly writeStatus: string
  readonly writeBuffer: { readonly byteLength: number }
  readonly sendingData: boolean
  writableNeedsDrain: boolean
  send(data: Bytes): boolean
  abort(error: Error): void
}

/** Whether `stream` would put a message into the hands of what is below it as it is. */
export function sendsAtOnce({ writeStatus, writeBuffer, sendingData, writableNeedsDrain }: StreamInside): boolean {
  return writeStatus === 'writable' && writeBuffer.byteLength === 0 && !sendingData && !writableNeedsDrain
}

/** Whether it has all of these members: another version of a library may look different inside. */
export function has(inside: object, members: readonly string[]): boolean {
  return members.every((member) => member in inside)
}

export const STREAM_MEMBERS = Object.freeze(['readStatus', 'readBuffer', 'writeStatus', 'writeBuffer', 'sendingData', 'writableNeedsDrain'])
