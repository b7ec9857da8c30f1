import { MeshError } from '../protocols/wire/errors.ts'

/** A flag, environment variable or configuration file that can't be used; the message names it and the remedy. */
export class ConfigError extends MeshError {
  override name = 'ConfigError'
}

/** A checkpoint, package or blob that can't be used; the message names file, tensor and remedy. */
export class ModelError extends MeshError {
  override name = 'ModelError'
}

/** The disk can't take what is being written; the message says how much it would need, where that is known. */
export class DiskFullError extends MeshError {
  override name = 'DiskFullError'
}

/** The named model is not in this node's store. */
export class ModelMissingError extends MeshError {
  override name = 'ModelMissingError'
}

/** A query that can't be run as asked; `param` is the offending field of the request, where there is one. */
export class InvalidRequestError extends MeshError {
  override name = 'InvalidRequestError'
  readonly param: string | null
  readonly code: string | null

  constructor(message: string, param: string | null = null, code: string | null = null) {
    super(message)
    this.param = param
    this.code = code
  }
}

/** No live peer serves an expert that a token was routed to. */
export class NoRouteError extends MeshError {
  override name = 'NoRouteError'
  readonly layer: number
  readonly expert: number
  /** Whether hosts were there and stayed busy for as long as was waited for them. */
  readonly wasBusy: boolean

  constructor(layer: number, expert: number, reason: string, wasBusy = false) {
    super(`no live host serves expert ${expert} of layer ${layer}: ${reason}`)
    this.layer = layer
    this.expert = expert
    this.wasBusy = wasBusy
  }
}

/** This node has as many queries as it takes; try again later. */
export class BusyError extends MeshError {
  override name = 'BusyError'
}

/** There is no memory left for the keys and values of a pass; queries that end give some back. */
export class KvFullError extends MeshError {
  override name = 'KvFullError'

  constructor(neededBytes: number, freeBytes: number) {
    super(`the key-value memory is full: ${neededBytes} bytes are needed and ${freeBytes} are free; raise --kv-memory or use --kv q8`)
  }
}
