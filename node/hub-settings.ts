import { ConfigError } from './errors.ts'
import type { HubSettings } from './model/hub/hub-client.ts'

export const DEFAULT_HUB = 'https://huggingface.co'

const LOOPBACK = ['127.0.0.1', '[::1]', 'localhost']

/**
 * The hub to fetch models from: the flag `--hub`, then `HF_ENDPOINT`, then {@link DEFAULT_HUB}; its token from `HF_TOKEN`.
 * Throws `ConfigError` for an address that is none, or one that would get the token in clear text.
 */
export function hubSettings(flag: string | undefined, env: NodeJS.ProcessEnv): HubSettings {
  const from = flag === undefined ? 'HF_ENDPOINT' : '--hub'
  const address = flag ?? (env['HF_ENDPOINT'] || DEFAULT_HUB)
  const token = env['HF_TOKEN'] || null
  const url = URL.canParse(address) ? new URL(address) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== '' || url.username !== '') {
    throw new ConfigError(`${from} ${address} is no address of a hub: use one like ${DEFAULT_HUB}`)
  }
  if (token !== null && url.protocol === 'http:' && !LOOPBACK.includes(url.hostname)) {
    throw new ConfigError(`${from} ${address} would get HF_TOKEN unencrypted: use https, or unset HF_TOKEN`)
  }
  return { endpoint: `${url.origin}${url.pathname.replace(/\/+$/, '')}`, token }
}
