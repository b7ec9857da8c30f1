import { ConfigError } from '../errors.ts'

const UNIT_SECONDS: Readonly<Record<string, number>> = Object.freeze({ s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 })

/** `90s`, `30m`, `12h`, `7d`, `2w` → seconds. Throws `ConfigError` naming the flag. */
export function parseDuration(text: string, flag: string): number {
  const match = /^([1-9]\d{0,5})([smhdw])$/.exec(text)
  if (match === null) throw new ConfigError(`${flag} ${text}: use a number and a unit, for example 30m, 12h or 7d`)
  return Number(match[1]) * UNIT_SECONDS[match[2]!]!
}
