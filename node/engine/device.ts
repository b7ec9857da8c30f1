import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** What may compute, as onnxruntime calls its execution providers; `auto` is the first other than the processor that works here. */
export const DEVICES = ['auto', 'cpu', 'cuda', 'coreml', 'dml', 'webgpu'] as const
export type Device = (typeof DEVICES)[number]
export type Provider = Exclude<Device, 'auto'>

export interface DeviceChoice {
  readonly provider: Provider
  /** Why each provider that was tried before can't be used, in the order of trying; empty when the first one works. */
  readonly refused: readonly { readonly provider: Provider; readonly reason: string }[]
}

/** Tells why a provider can't compute on this machine, or null when it can. */
export type ProviderProbe = (provider: Provider) => Promise<string | null>

/** Fastest first. */
const AUTO_ORDER: readonly Provider[] = ['cuda', 'coreml', 'dml', 'webgpu']
const PROBE_TIMEOUT_MS = 30_000
const PROBE = fileURLToPath(new URL('./device-probe.ts', import.meta.url))

/** The provider that is asked for if it works, else the processor, which always does. */
export async function chooseDevice(asked: Device, probe: ProviderProbe = probeProvider): Promise<DeviceChoice> {
  const refused: DeviceChoice['refused'][number][] = []
  for (const provider of asked === 'auto' ? AUTO_ORDER : [asked]) {
    const reason = provider === 'cpu' ? null : await probe(provider)
    if (reason === null) return { provider, refused }
    refused.push({ provider, reason })
  }
  return { provider: 'cpu', refused }
}

/** Computes something small with the provider, in a process of its own: drivers print, hang and crash. */
function probeProvider(provider: Provider): Promise<string | null> {
  return new Promise((resolve) => {
    execFile(process.execPath, [PROBE, provider], { timeout: PROBE_TIMEOUT_MS }, (error, stdout) => {
      const said = /^probe: (.*)$/m.exec(stdout)?.[1]
      if (said !== undefined) resolve(said === 'works' ? null : said)
      else if (error?.killed === true) resolve(`it did not compute anything within ${PROBE_TIMEOUT_MS / 1000} s`)
      else resolve(`trying it ended with ${error?.signal ?? error?.code ?? 'no answer'}`)
    })
  })
}
