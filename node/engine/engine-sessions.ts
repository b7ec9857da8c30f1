import { setImmediate as turn } from 'node:timers/promises'
import { ExpertSessions } from './expert-sessions.ts'
import type { BlockRef, WorkerRequest, WorkerResult } from './worker-messages.ts'
import { TrunkSessions } from './trunk-sessions.ts'

interface Waiting {
  readonly request: WorkerRequest
  readonly resolve: (result: WorkerResult) => void
  readonly reject: (error: unknown) => void
}

type AdvanceRequest = Extract<WorkerRequest, { op: 'advance' }>

/** The sessions of one thread of the engine, and what is done with them: one request after the other, in order. */
export class EngineSessions {
  readonly #trunks = new Map<number, TrunkSessions>()
  readonly #expertSets = new Map<number, ExpertSessions>()
  readonly #blocks = new Map<number, SharedArrayBuffer>()
  readonly #queue: Waiting[] = []
  #busy = false

  /** Resolves with numbers when they were asked for (logits, a check, pointers), else with null. */
  handle(request: WorkerRequest): Promise<WorkerResult> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ request, resolve, reject })
      if (!this.#busy) void this.#drain()
    })
  }

  async #drain(): Promise<void> {
    this.#busy = true
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      try {
        const result = await this.#handle(next.request)
        if (result === null || ArrayBuffer.isView(result)) next.resolve(result)
        else this.#queue.push({ ...next, request: result })
      } catch (error) {
        next.reject(error)
      }
      const { request } = next
      const unfinished =
        (request.op === 'attend' || request.op === 'advance') && this.#trunks.get(request.trunk)?.isUnfinished(request.pass)
          ? request
          : null
      // The answer goes out first: whoever waits for it has work of its own, or asks other machines.
      if (unfinished !== null || this.#queue.length > 0) await turn()
      if (unfinished !== null) this.#trunks.get(unfinished.trunk)?.finishLayer(unfinished.pass)
    }
    this.#busy = false
  }

  /** A request in place of a result is what is left to do once others had their turn. */
  async #handle(request: WorkerRequest): Promise<WorkerRequest | WorkerResult> {
    switch (request.op) {
      case 'attend': {
        const trunk = this.#trunkOf(request.trunk)
        if (request.start !== null) trunk.begin(request.pass, request.start.segments, this.#blockOf(request.start))
        trunk.attend(request.pass, request.layer)
        return null
      }
      case 'advance':
        return this.#advance(request)
      case 'run-experts':
        await this.#expertsOf(request.experts).run(request, this.#blockOf(request))
        return null
      case 'logits':
        return this.#trunkOf(request.trunk).logits(request.pass, request.rows)
      case 'head':
        return this.#trunkOf(request.trunk).head(request.last)
      case 'end-pass':
        this.#trunks.get(request.trunk)?.endPass(request.pass)
        return null
      case 'open-trunk':
        this.#trunks.set(request.trunk, new TrunkSessions(request.config, request.embedding, request.kv))
        return null
      case 'open-layer':
        this.#trunkOf(request.trunk).openLayer(request.layer, request, request.kv)
        return null
      case 'open-head':
        this.#trunkOf(request.trunk).openHead(request.source)
        return null
      case 'lend-trunk':
        return this.#trunkOf(request.trunk).pointers()
      case 'close-trunk':
        this.#trunks.get(request.trunk)?.close()
        this.#trunks.delete(request.trunk)
        return null
      case 'open-experts':
        this.#expertSets.set(request.experts, new ExpertSessions(request.hidden, request.threads))
        return null
      case 'open-expert':
        this.#expertsOf(request.experts).open(request.layer, request.expert, request.source)
        return null
      case 'check-expert':
        return this.#expertsOf(request.experts).check(request.layer, request.expert, request.rows)
      case 'lend-experts':
        return this.#expertsOf(request.experts).pointers(request.layer, request.first, request.last)
      case 'close-expert':
        this.#expertSets.get(request.experts)?.closeExpert(request.layer, request.expert)
        return null
      case 'close-experts':
        this.#expertSets.get(request.experts)?.close()
        this.#expertSets.delete(request.experts)
        return null
      case 'forget-block':
        this.#blocks.delete(request.block)
        return null
      case 'stop':
        this.#stop()
        return null
    }
  }

  /** Goes through layers; stops between two of them when others wait for the thread. */
  async #advance(request: AdvanceRequest): Promise<AdvanceRequest | null> {
    const { trunk: id, pass, start } = request
    const trunk = this.#trunkOf(id)
    const experts = this.#expertsOf(request.experts)
    if (start !== null) trunk.begin(pass, start.segments, this.#blockOf(start))
    for (let { layer } = request; ; layer++) {
      trunk.attend(pass, layer)
      if (!(await trunk.addExperts(pass, layer, experts)) || layer + 1 === trunk.layers) return null
      await turn()
      if (this.#queue.length > 0) return { ...request, layer: layer + 1, start: null }
    }
  }

  #stop(): void {
    for (const trunk of this.#trunks.values()) trunk.close()
    for (const experts of this.#expertSets.values()) experts.close()
  }

  #trunkOf(id: number): TrunkSessions {
    const trunk = this.#trunks.get(id)
    if (trunk === undefined) throw new Error('the trunk is closed')
    return trunk
  }

  #expertsOf(id: number): ExpertSessions {
    const experts = this.#expertSets.get(id)
    if (experts === undefined) throw new Error('the experts are closed')
    return experts
  }

  #blockOf(ref: BlockRef): SharedArrayBuffer {
    if (ref.memory !== null) this.#blocks.set(ref.block, ref.memory)
    const memory = this.#blocks.get(ref.block)
    if (memory === undefined) throw new Error(`shared block ${ref.block} is unknown`)
    return memory
  }
}
