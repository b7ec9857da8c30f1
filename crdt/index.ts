export { bitmapHas, bitmapMembers, bitmapOf } from './bitmap.ts'
export { DEFAULTS } from './defaults.ts'
export type { ExpertPair, HeatMap } from './heat-map.ts'
export { LatencySketch, mergeSketches, sketchCount, sketchQuantile } from './latency-sketch.ts'
export type { Sketch } from './latency-sketch.ts'
export { createLedger } from './ledger.ts'
export type { Ledger, LedgerComponents, LedgerEvents, LedgerInit, LedgerStats, ReceiveResult } from './ledger-contract.ts'
export { createLedgerReplication } from './ledger-replication.ts'
export type { LedgerReplication, LedgerReplicationComponents, LedgerReplicationInit, ReplicationStats } from './ledger-replication.ts'
export type { RoutedDelta } from './own-routing.ts'
export type { RejectionReason } from './rejection.ts'
export type { Reputation } from './reputation.ts'
export { LIMITS, TOPICS } from './schema.ts'
export type {
  Heat,
  Holdings,
  ModelRouting,
  Observation,
  Observed,
  Profile,
  Routing,
  RoutingCounts,
  Service,
  Topic,
  TopicValues,
} from './schema.ts'
export type { AuthorView, HeatQuery, LedgerCoverage, LedgerView } from './view.ts'
