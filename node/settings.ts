/** Every setting of a node, once: its flag, environment variable (`SKEIN_` + name in capitals), key in the configuration file, and meaning. */
export interface Setting {
  /** Key in the file and in the parsed options, camelCase. */
  readonly key: string
  /** Flag as commander reads it. */
  readonly flag: string
  readonly kind: 'text' | 'list' | 'switch'
  readonly help: string
}

export const SETTINGS = Object.freeze([
  { key: 'data', flag: '--data <dir>', kind: 'text', help: 'data directory: identity, blobs, ledger (default: ~/.skein)' },
  { key: 'store', flag: '--store <dir>', kind: 'text', help: 'blob store, may be shared by several nodes (default: <data>/blobs)' },
  { key: 'name', flag: '--name <name>', kind: 'text', help: 'name that other peers see (default: none)' },
  { key: 'swarm', flag: '--swarm <name>', kind: 'text', help: 'swarm to join (default: public)' },
  { key: 'private', flag: '--private', kind: 'switch', help: 'found a private swarm of that name, which others enter with an invite only' },
  {
    key: 'listen',
    flag: '--listen <multiaddr...>',
    kind: 'list',
    help: 'addresses to listen on (default: port 4115 of TCP, and of QUIC where it runs, IPv4 and IPv6)',
  },
  { key: 'bootstrap', flag: '--bootstrap <multiaddr...>', kind: 'list', help: 'peers to join the swarm through' },
  {
    key: 'announce',
    flag: '--announce <multiaddr...>',
    kind: 'list',
    help: 'public addresses that a router or proxy forwards to this node',
  },
  { key: 'punch', flag: '--no-punch', kind: 'switch', help: 'do not open direct links to peers behind routers, nor help others to' },
  {
    key: 'punchPort',
    flag: '--punch-port <port>',
    kind: 'text',
    help: 'UDP and TCP port for direct links and for telling peers how they are seen, UDP one above it too; another if taken, 0 for any (default: 4116)',
  },
  {
    key: 'punchBy',
    flag: '--punch-by <way...>',
    kind: 'list',
    help: 'ways to open direct links: udp, tcp, webrtc (default: all, webrtc where the others fail)',
  },
  {
    key: 'relay',
    flag: '--relay <when>',
    kind: 'text',
    help: 'relay for peers behind NATs: auto (when publicly reachable) | on | off (default: auto)',
  },
  { key: 'relayRate', flag: '--relay-rate <MB>', kind: 'text', help: 'megabytes a minute that the relay moves at most (default: 256)' },
  { key: 'relayPeers', flag: '--relay-peers <n>', kind: 'text', help: 'peers that the relay serves at the same time (default: 128)' },
  { key: 'upnp', flag: '--no-upnp', kind: 'switch', help: 'do not ask the router to forward a port (UPnP)' },
  { key: 'mdns', flag: '--no-mdns', kind: 'switch', help: 'do not look for peers on the local network' },
  {
    key: 'model',
    flag: '--model <name...>',
    kind: 'list',
    help: 'models to answer questions with, or none (default: ember, the embedded one)',
  },
  {
    key: 'host',
    flag: '--host <what>',
    kind: 'text',
    help: 'experts to host: all | none | auto | <fraction> | <layer>:<first>-<last>,... (default: all)',
  },
  { key: 'ram', flag: '--ram <size>', kind: 'text', help: 'memory for experts with --host auto, such as 4GB (default: a quarter)' },
  { key: 'disk', flag: '--disk <size>', kind: 'text', help: 'disk for blobs with --host auto (default: 20GB)' },
  {
    key: 'handover',
    flag: '--handover <seconds>',
    kind: 'text',
    help: 'time that a stopping node gives others to take up what only it serves (default: 30)',
  },
  {
    key: 'kv',
    flag: '--kv <type>',
    kind: 'text',
    help: 'keys and values of queries: f32 | q16 | q8, half and a quarter of the memory (default: f32)',
  },
  {
    key: 'kvMemory',
    flag: '--kv-memory <size>',
    kind: 'text',
    help: 'memory for keys and values of all queries together (default: a quarter)',
  },
  {
    key: 'cache',
    flag: '--cache <size>',
    kind: 'text',
    help: 'memory for experts that own questions use most, such as 1GB (default: none)',
  },
  {
    key: 'device',
    flag: '--device <name>',
    kind: 'text',
    help: 'what computes: cpu | cuda | coreml | dml | webgpu | auto, the processor where that does not work (default: cpu)',
  },
  { key: 'threads', flag: '--threads <n>', kind: 'text', help: 'worker threads of the engine (default: one per core)' },
  { key: 'apiHost', flag: '--api-host <address>', kind: 'text', help: 'address of the HTTP API (default: 127.0.0.1)' },
  { key: 'apiPort', flag: '--api-port <port>', kind: 'text', help: 'port of the HTTP API, 0 for any (default: 4114)' },
  { key: 'apiKey', flag: '--api-key <key>', kind: 'text', help: 'key that HTTP clients must present; required beyond loopback' },
  { key: 'wire', flag: '--wire <type>', kind: 'text', help: 'numbers on the wire: f32 | f16 | i8 (default: f16)' },
  {
    key: 'combine',
    flag: '--combine <who>',
    kind: 'text',
    help: "who sums a token's experts: host | driver (default: host; driver is bit-equal whatever the split)",
  },
  {
    key: 'heatHalfLife',
    flag: '--heat-half-life <minutes>',
    kind: 'text',
    help: 'time in which the use of an expert counts half in the heat map (default: 60)',
  },
  { key: 'log', flag: '--log <level>', kind: 'text', help: 'silent | error | info | debug (default: info)' },
] as const satisfies readonly Setting[])

export type SettingKey = (typeof SETTINGS)[number]['key']

/** Settings as they come from flags, environment or file: not yet checked. */
export type RawSettings = Partial<Record<SettingKey, unknown>>

/** `apiPort` → `SKEIN_API_PORT`. */
export function environmentName(key: SettingKey): string {
  return `SKEIN_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

/** `apiPort` → `--api-port`; what an error calls the setting. */
export function flagName(key: SettingKey): string {
  return SETTINGS.find((setting) => setting.key === key)!.flag.split(' ')[0]!
}
