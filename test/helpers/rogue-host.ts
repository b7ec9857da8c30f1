import type { Stream } from '@libp2p/interface'
import { createLedger, createLedgerReplication } from '../../crdt/index.ts'
import type { Ledger } from '../../crdt/index.ts'
import { decodeCall, encodeHello, encodeReply } from '../../protocols/expert/messages.ts'
import type { ExpertCall, ExpertReply } from '../../protocols/expert/messages.ts'
import { EXPERT_PROTOCOL, FrameKind, Priority } from '../../protocols/expert/protocol.ts'
import { FrameDecoder, FrameWriter } from '../../protocols/wire/frames.ts'
import type { ModelPackage } from '../../node/model/package.ts'
import { startBarePeer } from './bare-peer.ts'
import type { Teardown } from './swarm.ts'

/** A call of a query, as a rogue host has it before it. */
export interface RogueCall {
  readonly id: number
  readonly call: ExpertCall
  readonly stream: Stream
  readonly reply: (answer: ExpertReply) => void
  /** Any frame, right or wrong. */
  readonly frame: (id: number, kind: number, payload: Uint8Array) => void
}

export interface RogueHost {
  readonly peer: string
  /** Calls of queries that it got. */
  readonly calls: number
  /** The ledger as it has it: what others say of it reaches it, too. */
  readonly ledger: Ledger
  stop(): Promise<void>
}

/**
 * A peer that announces every expert, answers probes quickly and well-formed, and does `misdeed` with each call of a query. Its answers
 * to probes take it to the front of every driver's plan.
 */
export async function startRogueHost(
  t: Teardown,
  init: { swarm: string; connectTo: readonly string[]; model: ModelPackage; misdeed: (call: RogueCall) => void },
): Promise<RogueHost> {
  const { mesh, peer, privateKey, stop: stopPeer } = await startBarePeer(t, init)
  const ledger = createLedger({ privateKey }, { swarm: init.swarm })
  const replication = createLedgerReplication({ ledger, libp2p: mesh, pubsub: mesh.services.pubsub })
  let calls = 0
  await mesh.handle(EXPERT_PROTOCOL, (stream) => {
    const writer = new FrameWriter(stream, () => {})
    const onCall = (id: number, call: ExpertCall): void => {
      const reply = (answer: ExpertReply): void => writer.write(id, FrameKind.reply, ...encodeReply(answer))
      if (call.priority === Priority.background) return reply(emptyAnswer(call))
      calls++
      init.misdeed({ id, call, stream, reply, frame: (to, kind, payload) => writer.write(to, kind, payload) })
    }
    const decoder = new FrameDecoder({
      maxFrameBytes: 2 ** 26,
      onFrame: ({ id, kind, payload }) => {
        if (kind === FrameKind.call) onCall(id, decodeCall(payload))
      },
    })
    stream.addEventListener('message', (event) => {
      for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) decoder.push(chunk)
    })
    writer.write(0, FrameKind.hello, encodeHello({ revision: 1, credits: 128 }))
  })
  await ledger.start()
  await replication.start()
  const stop = async (): Promise<void> => {
    await ledger.goodbye()
    await replication.stop()
    await ledger.stop()
    await stopPeer()
  }
  t.after(stop)
  const { layers, experts } = init.model.manifest.config
  const all = new Uint8Array(Math.ceil(experts / 8)).fill(0xff)
  ledger.set('profile', { name: 'rogue', version: 'test', relayed: false })
  ledger.set('holdings', new Map([[init.model.id, Array.from({ length: layers }, () => all)]]))
  return {
    peer,
    ledger,
    get calls() {
      return calls
    },
    stop,
  }
}

/** A well-formed answer of zeros that claims to have cost nothing. */
export function emptyAnswer(call: ExpertCall): Extract<ExpertReply, { status: 'ok' }> {
  const rows = call.combine ? call.rows : call.pickRow.length
  return {
    status: 'ok',
    rowType: call.rowType,
    rows,
    width: call.width,
    data: new Float32Array(rows * call.width),
    queueUs: 0,
    computeUs: 0,
  }
}
