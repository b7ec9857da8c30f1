import type { LedgerView } from '../../crdt/index.ts'
import type { HostPrior } from '../router/host-estimate.ts'
import type { Experience } from './experience.ts'

/** What is known of a host beyond the latest calls: this node's long memory of it, its own statement, and what others measured. */
export function hostPrior(peer: string, view: LedgerView, experience: Experience): HostPrior {
  const { rttUs, badShare } = view.reputation(peer)
  const { calls, failures, notHeld, auditsFailed } = experience.of(peer)
  return {
    serviceUs: view.authors.get(peer)?.service?.p50Us ?? null,
    rttUs,
    reportedBadShare: badShare,
    calls,
    badCalls: failures + notHeld + auditsFailed,
  }
}
