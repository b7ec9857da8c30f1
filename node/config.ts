import { readFileSync } from 'node:fs'
import { availableParallelism, homedir, totalmem } from 'node:os'
import { join, resolve } from 'node:path'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { LIMITS } from '../crdt/schema.ts'
import type { Combine, WireType } from './driver/query.ts'
import type { KvInit } from './engine/engine.ts'
import { DEVICES } from './engine/device.ts'
import type { Device } from './engine/device.ts'
import { KV_TYPES } from './engine/kv-shape.ts'
import { ConfigError } from './errors.ts'
import type { LogLevel } from './log.ts'
import { defaultListen } from './net/listen-addresses.ts'
import { PUNCH_WAYS } from './net/punch/ways.ts'
import type { PunchWay } from './net/punch/ways.ts'
import { RELAY_DEFAULTS } from './net/relay-server.ts'
import type { RelayQuota } from './net/relay-server.ts'
import type { RelayMode } from './net/relaying.ts'
import { parseHostChoice } from './router/shard-choice.ts'
import type { HostChoice } from './router/shard-choice.ts'
import { environmentName, flagName, SETTINGS } from './settings.ts'
import type { RawSettings, SettingKey } from './settings.ts'

/** Everything a node needs to be told; plain and frozen. */
export interface Config {
  readonly dataDir: string
  readonly storeDir: string
  readonly name: string | null
  readonly swarm: string
  /** Found the swarm as a private one if the node is in none of that name yet. */
  readonly isPrivate: boolean
  readonly listen: readonly string[]
  /** Asked for, so that each of the addresses has to work; of the default ones those are left out that can't on this machine. */
  readonly isListenChosen: boolean
  readonly bootstrap: readonly string[]
  readonly announce: readonly string[]
  /** Port 0: any. */
  readonly punch: { readonly isOn: boolean; readonly port: number; readonly ways: readonly PunchWay[] }
  readonly relay: { readonly mode: RelayMode; readonly quota: RelayQuota }
  readonly mdns: boolean
  readonly upnp: boolean
  readonly models: readonly string[]
  readonly host: HostChoice
  /** What `--host auto` may take. */
  readonly budget: { readonly ramBytes: number; readonly diskBytes: number }
  /** Keys and values of queries. */
  readonly kv: KvInit
  /** For experts that this node's own queries use most; 0 for no cache. */
  readonly cacheBytes: number
  readonly device: Device
  readonly threads: number
  readonly api: { readonly host: string; readonly port: number; readonly key: string | null }
  readonly wire: WireType
  readonly combine: Combine
  readonly heatHalfLifeMs: number
  /** Longest wait of a node that stops for others to take up what only it serves. */
  readonly handoverMs: number
  readonly logLevel: LogLevel
}

const MAX_THREADS = 256
const DEFAULT_DISK_BYTES = 20e9
/** As disks and memory are sold: powers of ten; `GiB` and the like are powers of two. */
const UNIT_BYTES: Readonly<Record<string, number>> = Object.freeze({
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
})
const MAX_HALF_LIFE_MINUTES = LIMITS.maxHalfLifeMs / 60_000
const MAX_HANDOVER_S = 3_600
const MEGABYTE = 1024 * 1024
const MAX_RELAY_RATE_MB = 1_000_000
const MAX_RELAY_PEERS = 10_000
const LOOPBACK = ['127.0.0.1', '::1', 'localhost']

/** Where a node keeps its things unless told otherwise. */
export function defaultDataDir(): string {
  return join(homedir(), '.skein')
}

/**
 * Merges flags, then `SKEIN_*` variables, then `<data>/config.json`, then defaults. Throws `ConfigError` naming the setting, where it
 * came from, and what would be right.
 */
export function loadConfig(flags: RawSettings, env: NodeJS.ProcessEnv): Config {
  const fromEnv = readEnvironment(env)
  const dataDir = resolve(text(flags.data, '--data') ?? text(fromEnv.data, environmentName('data')) ?? defaultDataDir())
  const fromFile = readFile(join(dataDir, 'config.json'))
  const pick = (key: SettingKey): { value: unknown; from: string } => {
    if (flags[key] !== undefined) return { value: flags[key], from: flagName(key) }
    if (fromEnv[key] !== undefined) return { value: fromEnv[key], from: environmentName(key) }
    return { value: fromFile[key], from: `"${key}" in ${join(dataDir, 'config.json')}` }
  }
  const textOf = (key: SettingKey): string | undefined => {
    const { value, from } = pick(key)
    return text(value, from)
  }
  const listOf = (key: SettingKey): string[] | undefined => {
    const { value, from } = pick(key)
    return list(value, from)
  }
  const choiceOf = <T extends string>(key: SettingKey, choices: readonly T[], fallback: T): T => {
    const { value, from } = pick(key)
    const chosen = text(value, from) ?? fallback
    if (!(choices as readonly string[]).includes(chosen)) throw new ConfigError(`${from} ${chosen}: choose one of ${choices.join(', ')}`)
    return chosen as T
  }
  const integerOf = (key: SettingKey, low: number, high: number): number | undefined => integer(textOf(key), pick(key).from, low, high)

  const swarm = textOf('swarm') ?? 'public'
  if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(swarm))
    throw new ConfigError(`${pick('swarm').from} ${swarm}: use 1-32 lower-case letters, digits and dashes, beginning with no dash`)
  const name = textOf('name') ?? null
  if (name !== null && (!/^[\p{L}\p{N} ._-]+$/u.test(name) || Buffer.byteLength(name) > LIMITS.maxNameBytes)) {
    throw new ConfigError(
      `${pick('name').from} ${name}: use letters, digits, spaces, dots and dashes, at most ${LIMITS.maxNameBytes} bytes as UTF-8`,
    )
  }
  const apiHost = textOf('apiHost') ?? '127.0.0.1'
  const apiKey = textOf('apiKey') ?? null
  if (!LOOPBACK.includes(apiHost) && apiKey === null) {
    throw new ConfigError(`${pick('apiHost').from} ${apiHost} is reachable from other machines: set --api-key, or listen on 127.0.0.1`)
  }
  const mdns = pick('mdns')
  const punch = pick('punch')
  return Object.freeze({
    dataDir,
    storeDir: resolve(textOf('store') ?? join(dataDir, 'blobs')),
    name,
    swarm,
    isPrivate: switchOf(pick('private').value, pick('private').from) ?? false,
    listen: addresses(listOf('listen') ?? defaultListen(), pick('listen').from, false),
    isListenChosen: listOf('listen') !== undefined,
    bootstrap: addresses(listOf('bootstrap') ?? [], pick('bootstrap').from, true),
    announce: addresses(listOf('announce') ?? [], pick('announce').from, false),
    punch: Object.freeze({
      isOn: switchOf(punch.value, punch.from) ?? true,
      port: integerOf('punchPort', 0, 65_534) ?? 4116,
      ways: punchWays(listOf('punchBy') ?? PUNCH_WAYS, pick('punchBy').from),
    }),
    relay: Object.freeze({ mode: choiceOf('relay', ['auto', 'on', 'off'], 'auto'), quota: relayQuota(integerOf) }),
    upnp: switchOf(pick('upnp').value, pick('upnp').from) ?? true,
    mdns: switchOf(mdns.value, mdns.from) ?? true,
    models: modelNames(listOf('model') ?? ['ember'], pick('model').from),
    host: parseHostChoice(textOf('host') ?? 'all', pick('host').from),
    budget: Object.freeze({
      ramBytes: size(textOf('ram'), pick('ram').from) ?? Math.floor(totalmem() / 4),
      diskBytes: size(textOf('disk'), pick('disk').from) ?? DEFAULT_DISK_BYTES,
    }),
    kv: Object.freeze({
      type: choiceOf('kv', KV_TYPES, 'f32'),
      limitBytes: size(textOf('kvMemory'), pick('kvMemory').from) ?? Math.floor(totalmem() / 4),
    }),
    cacheBytes: size(textOf('cache'), pick('cache').from) ?? 0,
    device: choiceOf('device', DEVICES, 'cpu'),
    threads: integerOf('threads', 1, MAX_THREADS) ?? availableParallelism(),
    api: Object.freeze({ host: apiHost, port: integerOf('apiPort', 0, 65_535) ?? 4114, key: apiKey }),
    wire: choiceOf('wire', ['f32', 'f16', 'i8'], 'f16'),
    combine: choiceOf('combine', ['host', 'driver'], 'host'),
    handoverMs: (integerOf('handover', 0, MAX_HANDOVER_S) ?? 30) * 1000,
    heatHalfLifeMs: (integerOf('heatHalfLife', 1, MAX_HALF_LIFE_MINUTES) ?? 60) * 60_000,
    logLevel: choiceOf('log', ['silent', 'error', 'info', 'debug'], 'info'),
  })
}

function punchWays(chosen: readonly string[], from: string): readonly PunchWay[] {
  const unknown = chosen.find((way) => !(PUNCH_WAYS as readonly string[]).includes(way))
  if (unknown !== undefined) throw new ConfigError(`${from} ${unknown}: choose from ${PUNCH_WAYS.join(', ')}`)
  return chosen as readonly PunchWay[]
}

function relayQuota(integerOf: (key: SettingKey, low: number, high: number) => number | undefined): RelayQuota {
  const rate = integerOf('relayRate', 1, MAX_RELAY_RATE_MB)
  return Object.freeze({
    ...RELAY_DEFAULTS,
    bytesPerMinute: rate === undefined ? RELAY_DEFAULTS.bytesPerMinute : rate * MEGABYTE,
    reservations: integerOf('relayPeers', 1, MAX_RELAY_PEERS) ?? RELAY_DEFAULTS.reservations,
  })
}

function readEnvironment(env: NodeJS.ProcessEnv): RawSettings {
  const raw: RawSettings = {}
  for (const { key, kind } of SETTINGS) {
    const value = env[environmentName(key)]
    if (value === undefined || value === '') continue
    raw[key] = kind === 'list' ? value.split(',').map((part) => part.trim()) : value
  }
  return raw
}

function readFile(path: string): RawSettings {
  let content: string
  try {
    content = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    throw new ConfigError(`cannot read ${path}: ${(error as Error).message}`, { cause: error })
  }
  let parsed: unknown
  try {
    parsed = JSON.parse(content)
  } catch (error) {
    throw new ConfigError(`${path} is not JSON: ${(error as Error).message}`, { cause: error })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) throw new ConfigError(`${path} must hold one JSON object`)
  // The file is found by the data directory, so it can't name it.
  const known = SETTINGS.map((setting): string => setting.key).filter((key) => key !== 'data')
  const unknown = Object.keys(parsed).find((key) => !known.includes(key))
  if (unknown !== undefined) throw new ConfigError(`${path} has an unknown setting "${unknown}"; known are ${known.join(', ')}`)
  return parsed
}

function text(value: unknown, from: string): string | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'string' && value !== '') return value
  if (typeof value === 'number') return String(value)
  throw new ConfigError(`${from} needs a value`)
}

function list(value: unknown, from: string): string[] | undefined {
  if (value === undefined) return undefined
  if (Array.isArray(value) && value.every((entry): entry is string => typeof entry === 'string' && entry !== '')) return value
  throw new ConfigError(`${from} must be a list of texts`)
}

function switchOf(value: unknown, from: string): boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return value
  if (value === 'true' || value === '1') return true
  if (value === 'false' || value === '0') return false
  throw new ConfigError(`${from} must be true or false`)
}

function integer(value: string | undefined, from: string, low: number, high: number): number | undefined {
  if (value === undefined) return undefined
  const number = Number(value)
  if (!Number.isInteger(number) || number < low || number > high)
    throw new ConfigError(`${from} ${value}: use a whole number from ${low} to ${high}`)
  return number
}

/** `none` alone is no model: a node that only hosts for others. */
function modelNames(names: readonly string[], from: string): readonly string[] {
  if (!names.includes('none')) return names
  if (names.length > 1) throw new ConfigError(`${from} ${names.join(' ')}: none goes with no other model`)
  return []
}

function size(value: string | undefined, from: string): number | undefined {
  if (value === undefined) return undefined
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)$/i.exec(value.trim())
  const unit = UNIT_BYTES[match?.[2]?.toLowerCase() ?? 'none']
  if (match === null || unit === undefined) throw new ConfigError(`${from} ${value}: use a size such as 4GB, 500MB or 8GiB`)
  return Math.floor(Number(match[1]) * unit)
}

function addresses(values: readonly string[], from: string, needsPeer: boolean): string[] {
  for (const value of values) {
    let peer: string | undefined
    try {
      peer = multiaddr(value)
        .getComponents()
        .findLast((component) => component.name === 'p2p')?.value
      // A multiaddr takes any text for a peer id.
      if (peer !== undefined) peerIdFromString(peer)
    } catch {
      throw new ConfigError(`${from} ${value} is not a multiaddr, for example /ip4/192.0.2.1/tcp/4115${needsPeer ? '/p2p/<peer id>' : ''}`)
    }
    if (needsPeer && peer === undefined)
      throw new ConfigError(`${from} ${value} does not end in /p2p/<peer id>: copy the whole address that the other node prints`)
  }
  return [...values]
}
