import { setTimeout as delay } from 'node:timers/promises'
import { isMeshError, PeerRefusedError } from '../../protocols/wire/errors.ts'
import { callFrameBytes, replyFrameBytes } from '../../protocols/expert/index.ts'
import { Priority } from '../../protocols/expert/index.ts'
import type { PriorityLevel } from '../../protocols/expert/index.ts'
import { NoRouteError } from '../errors.ts'
import { freeMemory } from '../../protocols/wire/free-memory.ts'
import type { DoneLayer, Experts } from '../engine/engine.ts'
import type { ExpertHost } from '../host/expert-host.ts'
import type { ExpertLinks } from '../net/expert-links.ts'
import type { CostModel } from '../router/cost-model.ts'
import type { HostPrior } from '../router/host-estimate.ts'
import { planDispatch } from '../router/dispatch-plan.ts'
import { CancelScope } from './cancel-scope.ts'
import { callOf, groupOf } from './expert-group.ts'
import type { ExpertGroup, ExpertRun, LayerWork } from './expert-group.ts'
import { afterBusy, busyMs, exclude, NOBODY, wereBusy, whyNobody } from './excluded.ts'
import type { Excluded } from './excluded.ts'
import type { Candidate, Holders } from './holders.ts'
import { addPartialSums } from './partial-sum.ts'
import type { PartialSum } from './partial-sum.ts'
import type { WireType } from './query.ts'
import { servingOf } from './serving.ts'
import type { Serving } from './serving.ts'
import type { CallTally, ServedCall } from './tally.ts'

export interface DispatcherComponents {
  /** This node's peer id. */
  readonly self: string
  readonly links: ExpertLinks
  readonly host: ExpertHost
  readonly holders: Holders
  readonly costs: CostModel
  /** Looks for a host of the expert beyond the open links (ledger, DHT) and links to it; true when there may be one now. */
  readonly discover: (model: string, layer: number, expert: number, signal: AbortSignal) => Promise<boolean>
  /** Decides between hosts of nearly equal cost; drivers with different ones favour different hosts. */
  readonly tieSeed: number
  /** Whether a live peer announces the expert, linked or not. */
  readonly isAnnounced: (model: string, expert: { readonly layer: number; readonly expert: number }) => boolean
  /** Whether this node keeps the expert for its own queries alone. */
  readonly isCached: (model: string, layer: number, expert: number) => boolean
  /** The model's experts when this node may use all of them for its own queries, else null. */
  readonly ownExperts: (model: string) => Experts | null
  /** What is known of a peer besides the latest calls. */
  readonly priorOf: (peer: string) => HostPrior
}

/** What stays the same over the layers of a pass. */
export interface DispatchContext {
  /** CID of the manifest. */
  readonly model: string
  /** Its digest, hex: its name on the wire. */
  readonly digest: string
  readonly priority: PriorityLevel
  /** Decides which plans explore; differs from pass to pass. */
  readonly exploreSeed: number
  readonly tally: CallTally
  /** Of the query: cancelling it ends the dispatch with its reason. */
  readonly scope: CancelScope
}

/** A call that takes this many times what is expected of it, within the bounds, is slow: the same rows also go to another replica. */
const SLOW_FACTOR = 10
const MIN_SLOW_MS = 1_500
const MAX_SLOW_MS = 30_000
/** After this many times as long the driver gives up on it. Long, since it only counts when nobody else has the experts. */
const DEADLINE_PER_SLOW = 10
const MAX_DEADLINE_MS = 60_000
/** Hosts that may fail one after the other for the same rows. */
const MAX_ATTEMPTS = 6
/** An expert that somebody announces is tried for so long, this often, before its query fails. */
const PATIENCE_MS = 3_000
const RETRY_MS = 200
const DISCOVERY_TIMEOUT_MS = 10_000
const BYTES_PER_NUMBER: Readonly<Record<WireType, number>> = Object.freeze({ f32: 4, f16: 2, i8: 1 })

/** Sends the rows of a layer to the hosts of their experts and sums what comes back; the rows of a host that fails go to another replica. */
export class Dispatcher {
  readonly #components: DispatcherComponents
  /** (row, expert) pairs dispatched so far, and those that the expert cache served. */
  picks = 0
  cacheHits = 0

  constructor(components: DispatcherComponents) {
    this.#components = components
  }

  /**
   * Writes the weighted sum of the layer's experts into `into` ([rows, width]). Throws `NoRouteError` when an expert has no host left,
   * or what the scope was cancelled with.
   */
  async run(context: DispatchContext, work: LayerWork, into: Float32Array): Promise<void> {
    const startedAt = performance.now()
    this.picks += work.picks.pickRow.length
    const partials = await this.#runPatiently(context, work)
    into.fill(0)
    addPartialSums(work, partials, into)
    for (const { data } of partials) freeMemory(data)
    const remoteUs = Math.max(...partials.map((partial) => partial.remoteUs))
    if (remoteUs > 0 && context.priority === Priority.decode) context.tally.layerDone((performance.now() - startedAt) * 1000 - remoteUs)
  }

  /** The model's experts when all are here and nobody else can be called for any: there is nothing to plan between the layers of a pass. */
  soleExperts({ model }: DispatchContext): Experts | null {
    const own = this.#components.ownExperts(model)
    return own !== null && this.#components.holders.candidates(model).length === 1 ? own : null
  }

  /** Counts a layer whose rows a pass took through {@link soleExperts}. */
  ranHere(context: DispatchContext, { layer, experts, computeUs }: DoneLayer, rows: number): void {
    const picks = experts.length
    this.picks += picks
    const cachedPicks = experts.reduce((sum, expert) => sum + (this.#components.isCached(context.model, layer, expert) ? 1 : 0), 0)
    this.#servedLocally(
      context,
      { layer, rowOf: Uint16Array.from({ length: rows }, (_, row) => row), picks, cachedPicks },
      {
        latencyUs: computeUs,
        queueUs: 0,
        computeUs,
      },
    )
  }

  /** A host that went takes its links with it for a moment, also those that were just tried: one that was left is tried again. */
  async #runPatiently(context: DispatchContext, work: LayerWork): Promise<PartialSum[]> {
    let deadline: number | null = null
    for (;;) {
      try {
        return await this.#runRuns(context, work, work.runs, NOBODY)
      } catch (error) {
        const isHopeless =
          !isMeshError(error, 'NoRouteError') ||
          (error as NoRouteError).wasBusy ||
          !this.#components.isAnnounced(context.model, error as NoRouteError)
        // From the first failure on: a host that fell silent took its time to fail, and may have a new link by now.
        deadline ??= performance.now() + PATIENCE_MS
        if (isHopeless || performance.now() > deadline) throw error
        await delay(RETRY_MS)
        context.scope.throwIfCancelled()
      }
    }
  }

  async #runRuns(context: DispatchContext, work: LayerWork, runs: readonly ExpertRun[], excluded: Excluded): Promise<PartialSum[]> {
    const groups = await this.#plan(context, work, runs, excluded)
    if (groups.length === 1) return this.#runGroup(context, work, groups[0]!, excluded)
    const answers = await Promise.allSettled(groups.map((group) => this.#runGroup(context, work, group, excluded)))
    return answers.flatMap((answer) => {
      if (answer.status === 'rejected') throw answer.reason
      return answer.value
    })
  }

  async #plan(context: DispatchContext, work: LayerWork, runs: readonly ExpertRun[], excluded: Excluded): Promise<Assigned[]> {
    const sought = new Set<number>()
    let searching: AbortSignal | null = null
    for (;;) {
      context.scope.throwIfCancelled()
      const serving = servingOf(work.layer, runs, this.#candidates(context.model, work.layer, runs, excluded))
      const orphan = runs.find((_, i) => serving.holders[i]!.length === 0)
      if (orphan === undefined) return this.#assign(context, work, runs, serving)
      // One look-up finds the hosts of one shard; the layer's other experts may lie in others.
      if (sought.has(orphan.expert)) {
        const pardoned = await afterBusy(context.scope, excluded)
        if (pardoned === null) throw new NoRouteError(work.layer, orphan.expert, whyNobody(excluded), wereBusy(excluded))
        excluded = pardoned
        continue
      }
      sought.add(orphan.expert)
      searching ??= AbortSignal.any([context.scope.signal, AbortSignal.timeout(DISCOVERY_TIMEOUT_MS)])
      await this.#components.discover(context.model, work.layer, orphan.expert, searching)
    }
  }

  /** Hosts not excluded; those that are backed off only count for experts that nobody else serves. */
  #candidates(model: string, layer: number, runs: readonly ExpertRun[], excluded: Excluded): readonly Candidate[] {
    const { holders, costs } = this.#components
    const known = holders.candidates(model)
    const all = excluded.peers.length === 0 ? known : known.filter((candidate) => !excluded.peers.includes(candidate.peer))
    const isFit = (candidate: Candidate): boolean => candidate.local || costs.backoffMs(candidate.peer) === 0
    if (all.every(isFit)) return all
    const fit = all.filter(isFit)
    const needed = runs.filter((run) => !fit.some((candidate) => candidate.holds(layer, run.expert)))
    return needed.length === 0
      ? fit
      : [...fit, ...all.filter((candidate) => !fit.includes(candidate) && needed.some((run) => candidate.holds(layer, run.expert)))]
  }

  #assign(
    context: DispatchContext,
    work: LayerWork,
    runs: readonly ExpertRun[],
    { hosts: candidates, places, holders }: Serving,
  ): Assigned[] {
    const { costs, priorOf } = this.#components
    const picks = picksIn(runs)
    const bytes = layerBytes(context.tally, work, picks)
    const hosts = candidates.map(({ peer, local }) => {
      const cost = costs.cost(peer, local, priorOf(peer))
      // As if the host got all picks: a row travels once, however many experts it goes to.
      return local ? cost : { ...cost, perPickUs: cost.perPickUs + costs.transferUs(peer, bytes) / picks }
    })
    const plan = planDispatch({
      layer: work.layer,
      demands: runs.map(({ expert, from, to }, i) => ({ expert, rows: to - from, holders: holders[i]! })),
      hosts,
      places,
      seed: this.#components.tieSeed + work.layer,
      exploreSeed: context.exploreSeed + work.layer,
    })
    const assigned: Assigned[] = []
    for (const [index, { peer, local, overheadUs, queueUs, perPickUs }] of hosts.entries()) {
      const own = runs.filter((_, i) => plan[i] === index)
      if (own.length === 0) continue
      assigned.push({ peer, local, expectedUs: overheadUs + queueUs + picksIn(own) * perPickUs, group: groupOf(work, own) })
    }
    // Who takes longest is called first.
    return assigned.sort((a, b) => b.expectedUs - a.expectedUs)
  }

  async #runGroup(context: DispatchContext, work: LayerWork, assigned: Assigned, excluded: Excluded): Promise<PartialSum[]> {
    if (assigned.local) {
      try {
        return [await this.#runLocally(context, work, assigned)]
      } catch (error) {
        // The shard was given up between the plan and its turn.
        if (!(error instanceof PeerRefusedError)) throw error
        return this.#runRuns(context, work, assigned.group.runs, exclude(excluded, assigned.peer, null))
      }
    }
    const scope = new CancelScope()
    context.scope.add(scope)
    const slowMs = Math.min(MAX_SLOW_MS, Math.max(MIN_SLOW_MS, (SLOW_FACTOR * assigned.expectedUs) / 1000))
    const deadlineMs = Math.ceil(Math.min(MAX_DEADLINE_MS, slowMs * DEADLINE_PER_SLOW))
    try {
      const primary = this.#runRemotely(context, work, assigned, deadlineMs, scope)
      const first = await raceHedge(primary, slowMs)
      if (first.kind === 'answered') return [first.value]
      context.scope.throwIfCancelled()
      if (first.kind === 'failed' && !isPeerFailure(first.error)) throw first.error
      let others = exclude(excluded, assigned.peer, first.kind === 'failed' ? busyMs(first.error) : null)
      if (first.kind === 'failed' && others.peers.length >= MAX_ATTEMPTS) {
        const [run] = assigned.group.runs
        const why = `${whyNobody(others)}, the last so: ${first.error.message}`
        const pardoned = await afterBusy(context.scope, others)
        if (pardoned === null) throw new NoRouteError(work.layer, run!.expert, why, wereBusy(others))
        others = pardoned
      }
      context.tally.retry()
      const rescue = { ...context, scope }
      const second = this.#runRuns(rescue, work, assigned.group.runs, others)
      if (first.kind === 'failed') return await second
      let isSilent = true
      const late = primary.then((value) => [value]).finally(() => (isSilent = false))
      // The loser of a hedge is cancelled; if one fails the other still counts.
      const winner = await Promise.any([late, second]).catch((error: AggregateError) => {
        throw error.errors.at(-1)
      })
      // Else the next layer would wait for it as long again.
      if (isSilent) this.#components.costs.failed(assigned.peer)
      return winner
    } finally {
      scope.cancel(LOST_RACE)
      context.scope.delete(scope)
    }
  }

  async #runRemotely(
    context: DispatchContext,
    work: LayerWork,
    assigned: Assigned,
    deadlineMs: number,
    scope: CancelScope,
  ): Promise<PartialSum> {
    const { links, costs, holders } = this.#components
    const { peer, group } = assigned
    const combine = context.tally.combine === 'host'
    const call = callOf(work, group, {
      model: context.digest,
      priority: context.priority,
      deadlineMs,
      combine,
      rowType: context.tally.wire,
    })
    const startedAt = performance.now()
    try {
      const client = links.get(peer) ?? (await links.open(peer))
      scope.throwIfCancelled()
      const started = client.start(call)
      scope.add(started)
      const result = await started.answer
      const latencyUs = (performance.now() - startedAt) * 1000
      const [sentBytes, receivedBytes] = [callFrameBytes(call), replyFrameBytes(result.rowType, result.rows, result.width)]
      const { queueUs, computeUs } = result
      const picks = group.pickRow.length
      costs.forgive(peer)
      // What else there is to note waits until the next layer's calls are on their way.
      setImmediate(() => costs.probed(peer, { latencyUs, queueUs, computeUs, picks, bytes: sentBytes + receivedBytes }))
      context.tally.served({ peer, local: false, layer: work.layer, rowOf: group.rowOf, sentBytes, receivedBytes, picks, cachedPicks: 0 })
      return { group, combined: combine, data: result.data, remoteUs: result.computeUs }
    } catch (error) {
      if (scope.isCancelled || !isPeerFailure(error)) throw error
      if (error instanceof PeerRefusedError && error.status === 'busy') costs.busy(peer, error.retryAfterMs)
      else if (error instanceof PeerRefusedError && error.status === 'notHeld') {
        // Only what was asked for: a host can't speak of more. One that names nothing lacks the whole model.
        const asked = group.runs.map((run) => run.expert)
        const named = asked.filter((expert) => error.experts.includes(expert))
        if (holders.deny(peer, context.model, work.layer, named.length > 0 ? named : asked)) costs.contradicted(peer)
      } else costs.failed(peer)
      throw error
    }
  }

  async #runLocally(context: DispatchContext, work: LayerWork, assigned: Assigned): Promise<PartialSum> {
    const { host, isCached } = this.#components
    const { group } = assigned
    // Picks that nobody else has a part of give the same bits either way.
    const combined = context.tally.combine === 'host' || group.runs.length === work.runs.length
    const startedAt = performance.now()
    const { outputs, queueUs, computeUs } = await host.compute(context.digest, {
      layer: work.layer,
      priority: context.priority,
      rows: group.rowOf.length,
      x: group.x,
      pickRow: group.pickRow,
      pickExpert: group.pickExpert,
      ...(combined && { pickWeight: group.pickWeight }),
    })
    const latencyUs = (performance.now() - startedAt) * 1000
    const picks = group.pickRow.length
    const cachedPicks = group.runs.reduce(
      (sum, { expert, from, to }) => sum + (isCached(context.model, work.layer, expert) ? to - from : 0),
      0,
    )
    this.#servedLocally(context, { layer: work.layer, rowOf: group.rowOf, picks, cachedPicks }, { latencyUs, queueUs, computeUs })
    return { group, combined, data: outputs, remoteUs: 0 }
  }

  #servedLocally(
    { tally }: DispatchContext,
    served: Pick<ServedCall, 'layer' | 'rowOf' | 'picks' | 'cachedPicks'>,
    took: { readonly latencyUs: number; readonly queueUs: number; readonly computeUs: number },
  ): void {
    const { costs, self } = this.#components
    this.cacheHits += served.cachedPicks
    costs.succeeded(self, { ...took, picks: served.picks })
    tally.served({ peer: self, local: true, sentBytes: 0, receivedBytes: 0, ...served })
  }
}

interface Assigned {
  readonly peer: string
  readonly local: boolean
  readonly expectedUs: number
  readonly group: ExpertGroup
}

function picksIn(runs: readonly ExpertRun[]): number {
  return runs.reduce((sum, run) => sum + run.to - run.from, 0)
}

const LOST_RACE = new Error('another replica answered first')

type First = { kind: 'answered'; value: PartialSum } | { kind: 'failed'; error: Error } | { kind: 'slow' }

/** How the call stands when it ends or after `slowMs`, whichever is first. Never rejects. */
function raceHedge(call: Promise<PartialSum>, slowMs: number): Promise<First> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ kind: 'slow' }), slowMs)
    const end = (first: First): void => {
      clearTimeout(timer)
      resolve(first)
    }
    call.then(
      (value) => end({ kind: 'answered', value }),
      (error: Error) => end({ kind: 'failed', error }),
    )
  })
}

/** Failures of a peer, which another replica may mend. */
function isPeerFailure(error: unknown): boolean {
  return ['PeerLostError', 'PeerRefusedError', 'DeadlineError', 'InvalidMessageError'].some((name) => isMeshError(error, name))
}

/** What a call with all rows of the layer would send and receive: each row once, and back one sum for each, or one row for each pick. */
function layerBytes({ wire, combine }: CallTally, { rows, width }: LayerWork, picks: number): number {
  return (rows + (combine === 'host' ? rows : picks)) * width * BYTES_PER_NUMBER[wire]
}
