import type { HfConfig } from '../hf-config.ts'
import type { ModelConfig, RopeScaling } from '../model-config.ts'
import { MODEL_LIMITS } from '../model-limits.ts'

/** Fields of `rope_scaling` or `rope_parameters` that each kind of rotary embedding reads, beside its name and {@link ANY_KIND}. */
const FIELDS: Readonly<Record<RopeScaling['kind'], readonly string[]>> = Object.freeze({
  default: [],
  linear: ['factor'],
  dynamic: ['factor'],
  yarn: [
    'factor',
    'original_max_position_embeddings',
    'beta_fast',
    'beta_slow',
    'attention_factor',
    'mscale',
    'mscale_all_dim',
    'truncate',
  ],
  llama3: ['factor', 'original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor'],
})
const ANY_KIND: readonly string[] = ['rope_type', 'type', 'rope_theta', 'partial_rotary_factor']

export interface RopeInit {
  /** Used where config.json names none. */
  readonly theta: number
  /** Size of what is rotated at most: a head. */
  readonly size: number
  /** Field of config.json that says so; `head_dim` if not given. */
  readonly sizeField?: string
  readonly interleaved?: boolean
  /** Share of `size` that is rotated where config.json says nothing; architectures without one always rotate all. */
  readonly partial?: number
}

/** What follows from the fields on rotary embedding. */
export interface ReadRope extends Pick<ModelConfig, 'rope' | 'maxContext'> {
  /** What DeepSeek's attention multiplies queries and keys with each (`mscale_all_dim` of YaRN); else 1. */
  readonly latentMagnitude: number
}

/**
 * Reads `rope_scaling`, or the newer `rope_parameters`, and `rope_theta`, as Hugging Face transformers 5 does
 * (modeling_rope_utils.py); a kind or a field that is not known is refused. Scaled positions lengthen the context.
 */
export function readRope(hf: HfConfig, init: RopeInit): ReadRope {
  const maxPositions = hf.count('max_position_embeddings', MODEL_LIMITS.maxContext)
  const field = hf.raw('rope_scaling') === undefined ? 'rope_parameters' : 'rope_scaling'
  const fields = hf.group(field)
  const kind = fields.raw('rope_type') ?? fields.raw('type') ?? 'default'
  if (typeof kind !== 'string' || !Object.hasOwn(FIELDS, kind)) {
    throw hf.unsupported(field, `known kinds of rotary embedding: ${Object.keys(FIELDS).join(', ')}`)
  }
  const known = [...ANY_KIND, ...FIELDS[kind as RopeScaling['kind']]]
  const stray = fields.names.find((name) => !known.includes(name) && fields.raw(name) !== undefined)
  if (stray !== undefined) throw hf.unsupported(field, `rotary embedding of kind ${kind} does not use ${stray} here`)
  const factor = kind === 'default' ? 1 : readFactor(fields, kind, maxPositions)
  const scaling = readScaling(fields, kind as RopeScaling['kind'], factor, maxPositions)
  const theta = fields.positive('rope_theta', hf.group('rope_parameters').positive('rope_theta', hf.positive('rope_theta', init.theta)))
  const mscaleAll = fields.number('mscale_all_dim', 0)
  return {
    rope: { theta, dim: readDim(hf, fields, init), interleaved: init.interleaved ?? false, scaling },
    maxContext: Math.min(MODEL_LIMITS.maxContext, contextOf(scaling, maxPositions)),
    latentMagnitude: mscaleAll === 0 ? 1 : magnitude(factor, mscaleAll),
  }
}

function readScaling(fields: HfConfig, kind: RopeScaling['kind'], factor: number, maxPositions: number): RopeScaling {
  const context = (): number => fields.count('original_max_position_embeddings', MODEL_LIMITS.maxContext, maxPositions)
  switch (kind) {
    case 'default':
      return { kind }
    case 'linear':
      return { kind, factor }
    case 'dynamic':
      return { kind, factor, context: maxPositions }
    case 'yarn':
      return {
        kind,
        factor,
        context: context(),
        betaFast: fields.positive('beta_fast', 32),
        betaSlow: fields.positive('beta_slow', 1),
        truncate: fields.flag('truncate', true),
        magnitude: fields.raw('attention_factor') === undefined ? yarnMagnitude(fields, factor) : fields.positive('attention_factor'),
      }
    case 'llama3':
      return {
        kind,
        factor,
        context: context(),
        lowFactor: fields.positive('low_freq_factor'),
        highFactor: fields.positive('high_freq_factor'),
      }
  }
}

/** YaRN's may be left out where the two contexts say it. */
function readFactor(fields: HfConfig, kind: string, maxPositions: number): number {
  if (kind !== 'yarn' || fields.raw('factor') !== undefined) return fields.positive('factor')
  return maxPositions / fields.count('original_max_position_embeddings', MODEL_LIMITS.maxContext)
}

function yarnMagnitude(fields: HfConfig, factor: number): number {
  const scale = fields.number('mscale', 0)
  const scaleAll = fields.number('mscale_all_dim', 0)
  return scale !== 0 && scaleAll !== 0 ? magnitude(factor, scale) / magnitude(factor, scaleAll) : magnitude(factor, 1)
}

/** YaRN's temperature (arXiv 2309.00071, 3.4). */
function magnitude(factor: number, scale: number): number {
  return factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1
}

function readDim(hf: HfConfig, fields: HfConfig, { size, sizeField = 'head_dim', partial }: RopeInit): number {
  const share = fields.positive('partial_rotary_factor', hf.positive('partial_rotary_factor', partial ?? 1))
  if (partial === undefined && share !== 1) throw hf.unsupported('partial_rotary_factor', 'this architecture rotates whole heads')
  const dim = Math.trunc(size * share)
  if (dim < 2 || dim % 2 !== 0 || dim > size) {
    const field = share === 1 ? sizeField : 'partial_rotary_factor'
    throw hf.unsupported(field, `it would rotate ${dim} of a head's ${size} numbers; an even part is needed`)
  }
  return dim
}

function contextOf(scaling: RopeScaling, maxPositions: number): number {
  switch (scaling.kind) {
    case 'linear':
    case 'dynamic':
      return Math.floor(maxPositions * scaling.factor)
    case 'yarn':
      return Math.max(maxPositions, Math.floor(scaling.context * scaling.factor))
    default:
      return maxPositions
  }
}
