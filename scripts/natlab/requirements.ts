import { command } from './command.ts'

/** Why the lab can't run here, with what would help; null when it can. */
export async function missingRequirement(): Promise<string | null> {
  if (process.platform !== 'linux') return `the lab needs Linux network namespaces, this is ${process.platform}`
  if (process.getuid?.() !== 0) return 'the lab needs root rights: run it as root, or in a container with CAP_NET_ADMIN and CAP_SYS_ADMIN'
  for (const [program, args, from] of [
    ['ip', ['-V'], 'iproute2'],
    ['nft', ['-v'], 'nftables'],
    ['ethtool', ['--version'], 'ethtool'],
  ] as const) {
    const found = await command(program, args).then(
      () => true,
      () => false,
    )
    if (!found) return `the program ${program} is missing: install the package ${from}`
  }
  const space = `skein-lab-try-${process.pid}`
  try {
    await command('ip', ['netns', 'add', space])
    await command('ip', ['-n', space, 'link', 'add', 'vx', 'type', 'vxlan', 'id', '1', 'remote', '127.0.0.2', 'dstport', '4789'])
    await command(
      'ip',
      ['netns', 'exec', space, 'nft', '-f', '-'],
      'table ip t { chain c { type nat hook postrouting priority 100; masquerade; }; }\n',
    )
    return null
  } catch (error) {
    return `this kernel or container does not allow network namespaces with VXLAN and NAT: ${(error as Error).message}`
  } finally {
    await command('ip', ['netns', 'del', space]).catch(() => {})
  }
}
