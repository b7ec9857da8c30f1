import type { Xoshiro128 } from '../../node/engine/random.ts'
import { NO_PRIOR } from '../../node/router/host-estimate.ts'
import type { HostPrior } from '../../node/router/host-estimate.ts'

/** A host as it is, and as it and others say it is. */
export interface SimulatedHost {
  readonly peer: string
  readonly kind: 'honest' | 'slow' | 'lying'
  /** Medians, in microseconds. */
  rttUs: number
  queueUs: number
  perPickUs: number
  /** Experts that it states to hold and does not. */
  readonly lacks: ReadonlySet<number>
  readonly stated: HostPrior
}

/** What came of a call. */
export interface SimulatedCall {
  readonly isAnswered: boolean
  readonly latencyUs: number
  readonly queueUs: number
  readonly computeUs: number
}

export interface SimulatorInit {
  readonly random: Xoshiro128
  readonly hosts: number
  /** Of all hosts. */
  readonly slowShare: number
  readonly lyingShare: number
  readonly experts: number
  /** Hosts of an expert. */
  readonly replicas: number
}

/** Spread of latencies around their median: sigma of the logarithm. */
const SIGMA = 0.25
/** One call in so many meets a pause. */
const SPIKE_ONE_IN = 100
const SPIKE_US = 80_000
/** Of the experts that a lying host states to hold. */
const LACKED_SHARE = 0.3
/** A tenth of the fastest host's time: what a lying one states. */
const FASTEST_US = 30

/**
 * Hosts of a public swarm: 5 to 60 ms away. Slow ones compute five times as long behind a queue of 40 ms. Lying ones are three times as
 * slow as honest ones, lack three in ten of the experts that they state to hold, state to be ten times as fast as the fastest, and report of each other that they are
 * near and of everybody else that they are far and fail.
 */
export class HostSimulator {
  readonly hosts: readonly SimulatedHost[]
  /** Expert → indexes of its hosts. */
  readonly holders: readonly (readonly number[])[]
  readonly #random: Xoshiro128

  constructor(init: SimulatorInit) {
    const { random } = init
    this.#random = random
    const slow = Math.round(init.hosts * init.slowShare)
    const lying = Math.round(init.hosts * init.lyingShare)
    this.holders = Array.from({ length: init.experts }, () => {
      const chosen = new Set<number>()
      while (chosen.size < init.replicas) chosen.add(Math.floor(random.nextFloat() * init.hosts))
      return [...chosen].sort((a, b) => a - b)
    })
    this.hosts = Array.from({ length: init.hosts }, (_, i) => {
      const kind = i < slow ? 'slow' : i < slow + lying ? 'lying' : 'honest'
      const rttUs = 5_000 + random.nextFloat() * 55_000
      const perPickUs = (300 + random.nextFloat() * 700) * { honest: 1, slow: 5, lying: 3 }[kind]
      const queueUs = kind === 'slow' ? 40_000 : 500
      const lacks = new Set(
        this.holders.flatMap((hosts, expert) => (hosts.includes(i) && random.nextFloat() < LACKED_SHARE ? [expert] : [])),
      )
      // Fewer than half of those who measured a host lie, so the medians of what others say are what they measured.
      const stated: HostPrior = { ...NO_PRIOR, serviceUs: kind === 'lying' ? FASTEST_US : perPickUs + queueUs, rttUs }
      return { peer: `host-${i}`, kind, rttUs, queueUs, perPickUs, lacks: kind === 'lying' ? lacks : new Set<number>(), stated }
    })
  }

  /** A popular expert more often than a rare one: rank r with weight 1 / r. */
  nextExpert(): number {
    const weights = this.holders.length
    const total = Math.log(weights + 1)
    return Math.min(weights - 1, Math.floor(Math.exp(this.#random.nextFloat() * total)) - 1)
  }

  /** What a call of the host costs on average, without end when it lacks the expert. */
  expectedUs(host: SimulatedHost, expert: number, picks: number): number {
    if (host.lacks.has(expert)) return Infinity
    return (host.rttUs + host.queueUs + picks * host.perPickUs) * Math.exp(SIGMA ** 2 / 2) + SPIKE_US / SPIKE_ONE_IN
  }

  call(host: SimulatedHost, expert: number, picks: number): SimulatedCall {
    const rttUs = host.rttUs * this.#noise()
    if (host.lacks.has(expert)) return { isAnswered: false, latencyUs: rttUs, queueUs: 0, computeUs: 0 }
    const spikeUs = this.#random.nextFloat() * SPIKE_ONE_IN < 1 ? SPIKE_US : 0
    const [queueUs, computeUs] = [host.queueUs * this.#noise(), picks * host.perPickUs * this.#noise()]
    return { isAnswered: true, latencyUs: rttUs + spikeUs + queueUs + computeUs, queueUs, computeUs }
  }

  /** A tenth of the hosts change places: what was fast is slow now, and the other way round. */
  drift(): void {
    for (let n = 0; n < this.hosts.length / 10; n++) {
      const [a, b] = [this.#any(), this.#any()]
      ;[a.rttUs, b.rttUs] = [b.rttUs, a.rttUs]
      ;[a.queueUs, b.queueUs] = [b.queueUs, a.queueUs]
      ;[a.perPickUs, b.perPickUs] = [b.perPickUs, a.perPickUs]
    }
  }

  #any(): SimulatedHost {
    return this.hosts[Math.floor(this.#random.nextFloat() * this.hosts.length)]!
  }

  #noise(): number {
    const u = Math.max(1e-12, this.#random.nextFloat())
    return Math.exp(SIGMA * Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * this.#random.nextFloat()))
  }
}
