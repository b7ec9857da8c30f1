/**
 * xoshiro128** 1.1 by David Blackman and Sebastiano Vigna (https://prng.di.unimi.it/xoshiro128starstar.c),
 * its state filled by their SplitMix64: small, fast, and the same on every machine.
 */
export class Xoshiro128 {
  readonly #state: Uint32Array

  /** `state`: four words, not all zero. */
  constructor(state: readonly [number, number, number, number]) {
    this.#state = Uint32Array.from(state)
    if (this.#state.every((word) => word === 0)) throw new RangeError('the state of xoshiro128** must not be all zero')
  }

  /** `seed`: any integer; taken modulo 2^64. */
  static fromSeed(seed: number): Xoshiro128 {
    let x = BigInt.asUintN(64, BigInt(Math.trunc(seed)))
    const next = (): bigint => {
      x = BigInt.asUintN(64, x + 0x9e3779b97f4a7c15n)
      let z = x
      z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
      z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
      return z ^ (z >> 31n)
    }
    const [a, b] = [next(), next()]
    return new Xoshiro128([Number(a & 0xffffffffn), Number(a >> 32n), Number(b & 0xffffffffn), Number(b >> 32n)])
  }

  nextUint32(): number {
    const s = this.#state
    const s1 = s[1]!
    const result = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9) >>> 0
    const t = s1 << 9
    s[2]! ^= s[0]!
    s[3]! ^= s[1]!
    s[1]! ^= s[2]!
    s[0]! ^= s[3]!
    s[2]! ^= t
    s[3] = rotateLeft(s[3]!, 11)
    return result
  }

  /** Uniform in [0, 1) with 53 random bits. */
  nextFloat(): number {
    const high = this.nextUint32() >>> 5
    const low = this.nextUint32() >>> 6
    return (high * 67_108_864 + low) / 9_007_199_254_740_992
  }
}

const rotateLeft = (x: number, by: number): number => (x << by) | (x >>> (32 - by))
