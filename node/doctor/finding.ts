/** How much a finding matters: `problem` keeps something from working, `note` costs speed or is good to know. */
export type Level = 'ok' | 'note' | 'problem'

export interface Finding {
  readonly level: Level
  readonly what: string
  /** What to do about it; null where there is nothing to do. */
  readonly advice: string | null
}

export const ok = (what: string): Finding => ({ level: 'ok', what, advice: null })
export const note = (what: string, advice: string | null = null): Finding => ({ level: 'note', what, advice })
export const problem = (what: string, advice: string): Finding => ({ level: 'problem', what, advice })
