export { proveMembership } from './client.ts'
export type { MembershipResult } from './client.ts'
export { decodeCredential, encodeCredential, extendCredential, isCredentialOf } from './credential.ts'
export type { Credential, Sign } from './credential.ts'
export { judgeMembership } from './handler.ts'
export type { Judgement } from './handler.ts'
export {
  areTermsSigned,
  decodeClaim,
  decodeTerms,
  encodeClaim,
  encodeTerms,
  isPossessed,
  MAX_USES,
  possessionBytes,
  signTerms,
} from './invite-claim.ts'
export type { InviteClaim, InviteTerms } from './invite-claim.ts'
export type { Papers } from './messages.ts'
export type { Transcript } from './proof.ts'
export { KEY_BYTES, MEMBERSHIP_LIMITS, MEMBERSHIP_PROTOCOL } from './protocol.ts'
export type { VerdictName } from './protocol.ts'
