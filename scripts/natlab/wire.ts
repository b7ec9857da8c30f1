import { command } from './command.ts'

const MACHINES = ['a', 'b'] as const
export type Machine = (typeof MACHINES)[number]

/**
 * Two machines on one wire without any router: they have link-local IPv6 addresses, and no others but loopback. What runs on them is to be
 * stopped before it is closed.
 */
export class Wire {
  readonly #name = `skein-wire-${process.pid}`

  private constructor() {}

  /** Rejects with the command that failed, after taking down what was built. */
  static async create(): Promise<Wire> {
    const wire = new Wire()
    try {
      for (const machine of MACHINES) {
        await command('ip', ['netns', 'add', wire.#space(machine)])
        await command('ip', ['-n', wire.#space(machine), 'link', 'set', 'lo', 'up'])
        // An address is there at once, not after it was searched for on the wire.
        await wire.#exec(machine, 'sh', ['-c', 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'])
      }
      const peer = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', wire.#space('b')]
      await command('ip', ['link', 'add', 'eth0', 'netns', wire.#space('a'), ...peer])
      for (const machine of MACHINES) await command('ip', ['-n', wire.#space(machine), 'link', 'set', 'eth0', 'up'])
      return wire
    } catch (error) {
      await wire.close()
      throw error
    }
  }

  /** The words to put before a command so that it runs on that machine. */
  on(machine: Machine): readonly string[] {
    return ['ip', 'netns', 'exec', this.#space(machine)]
  }

  /** Never rejects. */
  async close(): Promise<void> {
    for (const machine of MACHINES) await command('ip', ['netns', 'del', this.#space(machine)]).catch(() => {})
  }

  #space(machine: Machine): string {
    return `${this.#name}-${machine}`
  }

  async #exec(machine: Machine, program: string, args: readonly string[]): Promise<void> {
    await command('ip', ['netns', 'exec', this.#space(machine), program, ...args])
  }
}
