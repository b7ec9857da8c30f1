import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { command } from './command.ts'
import { ipv6FirewallRules, natRules } from './nat-rules.ts'
import type { NatKind } from './nat-rules.ts'

/** What stands between a host and the lab's internet. */
export interface SideInit {
  readonly nat: NatKind
  /** A second router in front of the first, as with a provider's NAT. */
  readonly outerNat?: Exclude<NatKind, 'open'>
  readonly blockUdp?: boolean
  /** The router forwards ports when a machine behind it asks (UPnP). */
  readonly upnp?: boolean
  /** Also gives the host a global IPv6 address behind a stateful firewall. */
  readonly ipv6?: boolean
}

export interface LabInit {
  readonly a: SideInit
  readonly b: SideInit
  /** Public machines, at 52.0.0.1 and following. */
  readonly publics: number
  /** One-way delay of each machine's line. */
  readonly delayMs: number
  readonly publicDelayMs?: number
}

export type HostName = 'a' | 'b' | `p${number}`

const UPNP_ROUTER = fileURLToPath(new URL('./upnp-router.ts', import.meta.url))
const SWITCH = fileURLToPath(new URL('./frame-switch.ts', import.meta.url))
const PREFIX = 'skein-lab'
const SWITCH_ADDRESS = '192.168.255.2'
const KERNEL_ADDRESS = '192.168.255.1'
/** Room for a whole Ethernet frame inside VXLAN. */
const UNDERLAY_MTU = 1700
let made = 0

/**
 * Two hosts, `a` and `b`, each behind a router of its own, and some public machines, in network namespaces of this machine. Nothing of
 * it outlives this process, even when that is killed: a shell waits for the end of a pipe and takes all away.
 */
export class Lab {
  readonly #name = `${PREFIX}-${process.pid}-${++made}`
  readonly #spaces = new Set<string>()
  /** The switch, and what runs on routers. */
  readonly #services: ChildProcess[] = []
  #reaper: ChildProcess | null = null

  private constructor() {}

  /** Rejects with the command that failed, after taking down what was built. */
  static async create(init: LabInit): Promise<Lab> {
    const lab = new Lab()
    try {
      await lab.#build(init)
      return lab
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  /** The words to put before a command so that it runs on that machine. */
  on(host: HostName): readonly string[] {
    return ['ip', 'netns', 'exec', this.#space(host)]
  }

  /** Runs a command on a machine of the lab, or on the router of a side (`na`, `nb`). */
  async exec(host: HostName | 'na' | 'nb', program: string, args: readonly string[], input = ''): Promise<string> {
    return await command('ip', ['netns', 'exec', this.#space(host), program, ...args], input)
  }

  /**
   * Carries a host that has a router out of its home network, to where it has a public address and nothing between it and the internet;
   * or back home. Its programs run on.
   */
  async move(host: 'a' | 'b', to: 'away' | 'home'): Promise<void> {
    const index = host === 'a' ? 1 : 2
    if (to === 'away') {
      await this.#ip(host, 'link', 'set', 'eth0', 'down')
      return await this.#wan(host, AWAY_PORTS + index, AWAY_PORTS + index)
    }
    await this.#ip(host, 'link', 'del', 'wan')
    await this.#ip(host, 'link', 'set', 'eth0', 'up')
    await this.#ip(host, 'route', 'add', 'default', 'via', `10.${index}.0.1`)
  }

  /** Ends every process in the lab and removes it; never rejects. */
  async close(): Promise<void> {
    for (const service of this.#services) service.stdin?.end()
    const reaper = this.#reaper
    if (reaper === null) return
    this.#reaper = null
    const gone = new Promise((resolve) => reaper.once('exit', resolve))
    reaper.stdin!.end()
    await gone
  }

  #space(name: string): string {
    return `${this.#name}-${name}`
  }

  async #build(init: LabInit): Promise<void> {
    await removeStale()
    this.#reaper = spawn('sh', ['-c', `cat >/dev/null; ${removal(`${this.#name}-`)}`], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    })
    await this.#addSpace('kernel')
    await this.#addSpace('switch')
    await this.#veth('kernel', 'line', 'switch', 'line')
    await this.#ip('kernel', 'addr', 'add', `${KERNEL_ADDRESS}/24`, 'dev', 'line')
    await this.#ip('switch', 'addr', 'add', `${SWITCH_ADDRESS}/24`, 'dev', 'line')
    await this.#ip('kernel', 'link', 'set', 'line', 'mtu', String(UNDERLAY_MTU), 'up')
    await this.#ip('switch', 'link', 'set', 'line', 'mtu', String(UNDERLAY_MTU), 'up')

    const delays: string[] = []
    for (let i = 1; i <= init.publics; i++) {
      await this.#addSpace(`p${i}`)
      await this.#wan(`p${i}`, i, i)
      delays.push(`${i}=${init.publicDelayMs ?? init.delayMs}`)
    }
    for (const [side, index] of SIDES) {
      await this.#side(side, index, init[side])
      delays.push(`${SIDE_PORTS + index}=${init.delayMs}`, `${AWAY_PORTS + index}=${init.delayMs}`)
    }
    await this.#serve('switch', SWITCH, [SWITCH_ADDRESS, KERNEL_ADDRESS, ...delays])
    for (const [side, index] of SIDES) {
      if (init[side].upnp === true) await this.#serve(`n${side}`, UPNP_ROUTER, [`10.${index}.0.1`, `52.0.0.${SIDE_PORTS + index}`])
    }
  }

  /** Runs a program of the lab until its end; resolves when it is up. */
  async #serve(space: string, program: string, args: readonly string[]): Promise<void> {
    const words = ['netns', 'exec', this.#space(space), process.execPath, program, ...args]
    const child = spawn('ip', words, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#services.push(child)
    await new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve())
      child.once('exit', (code) => reject(new Error(`${program} ended with ${code}`)))
    })
  }

  /** Routers of a side are n<side> (next to the host) and, with two, o<side> before it. */
  async #side(side: 'a' | 'b', index: number, init: SideInit): Promise<void> {
    await this.#addSpace(side)
    const port = SIDE_PORTS + index
    if (init.nat === 'open') return await this.#wan(side, port, port)
    const inner = `n${side}`
    await this.#addSpace(inner)
    if (init.outerNat === undefined) await this.#wan(inner, port, port)
    else {
      const outer = `o${side}`
      await this.#addSpace(outer)
      await this.#wan(outer, port, port)
      await this.#lan(outer, inner, 'wan', `100.64.${index}`)
      await this.#route(outer, { kind: init.outerNat, host: `100.64.${index}.2`, blockUdp: false })
    }
    await this.#lan(inner, side, 'eth0', `10.${index}.0`)
    await this.#route(inner, { kind: init.nat, host: `10.${index}.0.2`, blockUdp: init.blockUdp ?? false })
    if (init.ipv6 === true) await this.#routeIpv6(side, inner, index)
  }

  async #route(router: string, rules: Parameters<typeof natRules>[0]): Promise<void> {
    await this.#exec(router, 'sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
    await this.#exec(router, 'nft', ['-f', '-'], natRules(rules))
  }

  async #routeIpv6(side: string, router: string, index: number): Promise<void> {
    await this.#exec(router, 'sh', ['-c', 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'])
    await this.#ip(router, 'addr', 'add', `2a02:${index}::1/64`, 'dev', 'lan', 'nodad')
    await this.#ip(side, 'addr', 'add', `2a02:${index}::2/64`, 'dev', 'eth0', 'nodad')
    await this.#ip(side, '-6', 'route', 'add', 'default', 'via', `2a02:${index}::1`)
    await this.#ip(router, '-6', 'route', 'add', `2a02:${3 - index}::/64`, 'via', `2a02:ffff::${SIDE_PORTS + 3 - index}`)
    await this.#exec(router, 'nft', ['-f', '-'], ipv6FirewallRules())
    for (let i = 1; i < SIDE_PORTS && this.#spaces.has(`p${i}`); i++)
      await this.#ip(`p${i}`, '-6', 'route', 'add', `2a02:${index}::/64`, 'via', `2a02:ffff::${SIDE_PORTS + index}`)
  }

  /** A device `wan` at 52.0.0.<host>, whose frames go to the switch. */
  async #wan(space: string, port: number, host: number): Promise<void> {
    const device = `vx${port}`
    const to = ['id', String(port), 'local', KERNEL_ADDRESS, 'remote', SWITCH_ADDRESS, 'dstport', '4789']
    await this.#ip('kernel', 'link', 'add', device, 'type', 'vxlan', ...to)
    // Its outer packets stay in the namespace where it was made.
    await this.#ip('kernel', 'link', 'set', device, 'netns', this.#space(space), 'name', 'wan')
    // The switch sees frames as they are: they must leave the kernel with their checksums, and no longer than the line's MTU.
    await this.#exec(space, 'ethtool', ['-K', 'wan', 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'off'])
    await this.#ip(space, 'addr', 'add', `52.0.0.${host}/24`, 'dev', 'wan')
    await this.#ip(space, 'addr', 'add', `2a02:ffff::${host}/64`, 'dev', 'wan', 'nodad')
    await this.#ip(space, 'link', 'set', 'wan', 'mtu', '1500', 'up')
  }

  /** Joins router and machine: .1 and .2 of the net; the router is the machine's way out. */
  async #lan(router: string, machine: string, device: string, net: string): Promise<void> {
    await this.#veth(router, 'lan', machine, device)
    await this.#ip(router, 'addr', 'add', `${net}.1/24`, 'dev', 'lan')
    await this.#ip(machine, 'addr', 'add', `${net}.2/24`, 'dev', device)
    await this.#ip(router, 'link', 'set', 'lan', 'up')
    await this.#ip(machine, 'link', 'set', device, 'up')
    await this.#ip(machine, 'route', 'add', 'default', 'via', `${net}.1`)
  }

  async #addSpace(name: string): Promise<void> {
    await command('ip', ['netns', 'add', this.#space(name)])
    this.#spaces.add(name)
    await this.#ip(name, 'link', 'set', 'lo', 'up')
  }

  async #veth(spaceA: string, deviceA: string, spaceB: string, deviceB: string): Promise<void> {
    const peer = ['type', 'veth', 'peer', 'name', deviceB, 'netns', this.#space(spaceB)]
    await command('ip', ['link', 'add', deviceA, 'netns', this.#space(spaceA), ...peer])
  }

  async #ip(space: string, ...args: string[]): Promise<void> {
    await command('ip', ['-n', this.#space(space), ...args])
  }

  async #exec(space: string, program: string, args: readonly string[], input = ''): Promise<void> {
    await command('ip', ['netns', 'exec', this.#space(space), program, ...args], input)
  }
}

const SIDES = [
  ['a', 1],
  ['b', 2],
] as const
/** Ports of the switch above it belong to the sides, those below to public machines. */
const SIDE_PORTS = 10
/** Ports of the switch above it are for hosts that left their home network. */
const AWAY_PORTS = 20

/** Shell words that end all processes in the namespaces that begin so, and remove these. */
function removal(prefix: string): string {
  const spaces = `$(ip netns list | cut -d' ' -f1 | grep '^${prefix}')`
  return `for n in ${spaces}; do ip netns pids $n | xargs -r kill -9; done; for n in ${spaces}; do ip netns del $n; done`
}

/** Labs of processes that are gone. */
async function removeStale(): Promise<void> {
  const names = (await command('ip', ['netns', 'list'])).matchAll(/^(skein-lab-(\d+)-\d+-)/gm)
  for (const prefix of new Map([...names].map(([, prefix, pid]) => [prefix!, Number(pid)] as const)).entries()) {
    if (!isAlive(prefix[1])) await command('sh', ['-c', removal(prefix[0])])
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
