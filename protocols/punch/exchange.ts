import type { Stream } from '@libp2p/interface'
import { lpStream } from '@libp2p/utils'
import { InvalidMessageError } from '../wire/errors.ts'
import { decodeMessage, encodeMessage } from './messages.ts'
import type { PunchMessage } from './messages.ts'
import { PUNCH_LIMITS as LIMITS } from './protocol.ts'

/** Bytes of all messages of one exchange with their prefixes. */
const MAX_BUFFER_BYTES = 4 * LIMITS.maxMessageBytes

/** One side of an exchange. Every method rejects when the signal fires, the stream ends or the peer breaks the format. */
export interface PunchExchange {
  send(message: PunchMessage): Promise<void>
  /** Throws `InvalidMessageError` for a message of another kind. */
  receive<K extends PunchMessage['kind']>(...kinds: K[]): Promise<Extract<PunchMessage, { kind: K }>>
}

export function punchExchange(stream: Stream, signal: AbortSignal): PunchExchange {
  const messages = lpStream(stream, { maxDataLength: LIMITS.maxMessageBytes, maxBufferSize: MAX_BUFFER_BYTES })
  return {
    send: async (message) => await messages.write(encodeMessage(message), { signal }),
    async receive(...kinds) {
      const message = decodeMessage((await messages.read({ signal })).subarray())
      if (!(kinds as string[]).includes(message.kind))
        throw new InvalidMessageError(`a ${message.kind} where ${kinds.join(' or ')} was due`)
      return message as Extract<PunchMessage, { kind: (typeof kinds)[number] }>
    },
  }
}
