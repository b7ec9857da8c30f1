import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError } from './errors.ts'
import { writeJsonFile } from './swarm/json-file.ts'

/** Bootstrap addresses kept: those of the newest invites. */
const MAX_BOOTSTRAP = 16

/** Makes the swarm the one that this data directory's node joins, and adds the ways to it; other settings of `config.json` stay. Throws `ConfigError`. */
export async function rememberSwarm(dataDir: string, swarm: string, bootstrap: readonly string[]): Promise<void> {
  const file = join(dataDir, 'config.json')
  const settings = await readSettings(file)
  const isSame = settings['swarm'] === swarm
  const before = isSame && Array.isArray(settings['bootstrap']) ? (settings['bootstrap'] as string[]) : []
  const merged = [...new Set([...bootstrap, ...before])].slice(0, MAX_BOOTSTRAP)
  await writeJsonFile(file, { ...settings, swarm, bootstrap: merged })
}

async function readSettings(file: string): Promise<Record<string, unknown>> {
  try {
    const settings: unknown = JSON.parse(await readFile(file, 'utf8'))
    if (typeof settings === 'object' && settings !== null && !Array.isArray(settings)) return settings as Record<string, unknown>
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
  }
  throw new ConfigError(`${file} must hold one JSON object: mend it, or delete it to begin with the defaults`)
}
