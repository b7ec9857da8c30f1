import { createConnection } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { multiaddr } from '@multiformats/multiaddr'
import type { Config } from '../config.ts'
import { loadIdentity } from '../net/identity.ts'
import { listenFault, tcpFault } from '../net/listen-addresses.ts'
import { missingLibraries } from '../net/native-libraries.ts'
import { isPrivateHost } from '../net/operator.ts'
import { describeFailure } from '../net/rejoiner.ts'
import { loadMembership } from '../swarm/swarm-file.ts'
import { note, ok, problem } from './finding.ts'
import type { Finding } from './finding.ts'
import { libraryFindings } from './libraries.ts'

const CONNECT_TIMEOUT_MS = 5_000
/** Bootstrap addresses tried. */
const MAX_TRIED = 16

/** What can be told while no node runs: configuration, identity, ports, interfaces, and whether the bootstrap addresses accept TCP. */
export async function examineOffline(config: Config): Promise<Finding[]> {
  const tried = config.bootstrap.slice(0, MAX_TRIED)
  return [
    note(
      `no node is running on ${config.dataDir}`,
      'start one with "skein up"; with it running, doctor sees peers, relays, NAT and clock too',
    ),
    await identity(config),
    await swarm(config),
    ...interfaces(),
    ...libraryFindings(await missingLibraries()),
    ...(await Promise.all(config.listen.map((address, i) => listening(config, address, i)))),
    await apiPort(config),
    ...(tried.length === 0
      ? [
          note(
            'no bootstrap addresses',
            'peers are found on the local network, or in data of former runs; "skein join <invite>" brings addresses',
          ),
        ]
      : []),
    ...(await Promise.all(tried.map(bootstrapping))),
  ]
}

async function identity({ dataDir }: Config): Promise<Finding> {
  const file = join(dataDir, 'identity.key')
  try {
    await loadIdentity(file)
    return ok('identity is readable')
  } catch (error) {
    return problem((error as Error).message, `look at ${file}`)
  }
}

async function swarm({ dataDir, swarm: name }: Config): Promise<Finding> {
  try {
    const membership = await loadMembership(dataDir, name)
    if (membership === null) return ok(`swarm "${name}" (open)`)
    if (membership.credential !== null) return ok(`member of the private swarm "${name}"`)
    return note(`invited to the private swarm "${name}", not admitted yet`, 'start the node while the one that made the invite is running')
  } catch (error) {
    return problem((error as Error).message, 'join again with an invite')
  }
}

function interfaces(): Finding[] {
  const addresses = Object.values(networkInterfaces()).flatMap((entries = []) => entries.filter(({ internal }) => !internal))
  const hosts = addresses.map(({ address }) => address)
  if (hosts.length === 0) return [problem('this machine has no network but its own loopback', 'connect it')]
  const publics = hosts.filter((host) => !isPrivateHost(host))
  const families = [...new Set(addresses.map(({ family }) => family))].sort().join(' and ')
  return [
    publics.length > 0
      ? ok(`${families}, ${publics.length} of ${hosts.length} addresses public`)
      : note(`${families}, private addresses only: a router stands between this machine and the internet`),
  ]
}

async function listening({ isListenChosen }: Config, address: string, index: number): Promise<Finding> {
  const fault = await listenFault(address)
  if (fault === null) return ok(`${address} can be listened on`)
  const text = `${address} can not be listened on: ${fault}`
  return isListenChosen || index === 0
    ? problem(text, 'stop the other program, or pass another --listen')
    : note(text, 'the node does without it')
}

async function apiPort({ api }: Config): Promise<Finding> {
  const fault = await tcpFault(api.host, api.port)
  return fault === null
    ? ok(`API port ${api.port} is free`)
    : problem(`API port ${api.port}: ${fault}`, 'stop the other program, or pass another --api-port')
}

async function bootstrapping(address: string): Promise<Finding> {
  const components = multiaddr(address).getComponents()
  const host = components.find(({ name }) => /^(ip4|ip6|dns|dns4|dns6)$/.test(name))?.value
  const port = Number(components.find(({ name }) => name === 'tcp')?.value ?? NaN)
  if (host === undefined || Number.isNaN(port)) return note(`bootstrap ${address} is not TCP and was not tried`)
  const fault = await connectFault(host, port)
  return fault === null
    ? ok(`bootstrap ${address} accepts connections`)
    : problem(`bootstrap ${address}: ${fault}`, 'is that node running, and its port open? Ask for a newer invite')
}

function connectFault(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port })
    const end = (fault: string | null): void => {
      clearTimeout(timer)
      socket.destroy()
      resolve(fault)
    }
    const timer = setTimeout(() => end('no answer in time'), CONNECT_TIMEOUT_MS)
    socket.once('connect', () => end(null))
    socket.once('error', (error) => end(describeFailure(error)))
  })
}
