/** What the routers of a model chose, token by token. */
export interface RoutingTrace {
  /** Layers with experts. */
  readonly layers: number
  readonly experts: number
  readonly expertsPerToken: number
  /** [sequence][layer]: the experts of each token, `expertsPerToken` of them in a row. */
  readonly sequences: readonly (readonly (readonly number[])[])[]
}

/** How often each expert was chosen: [layers * experts], row-major. */
export function traceHeat({ layers, experts, sequences }: RoutingTrace): Float64Array {
  const heat = new Float64Array(layers * experts)
  for (const sequence of sequences) sequence.forEach((chosen, layer) => chosen.forEach((expert) => heat[layer * experts + expert]!++))
  return heat
}

/** How many tokens used both of two experts of a layer: `a < b`. */
export function tracePairs({ layers, experts, expertsPerToken, sequences }: RoutingTrace): {
  readonly layer: number
  readonly a: number
  readonly b: number
  readonly rate: number
}[] {
  const counts = new Float64Array(layers * experts * experts)
  for (const sequence of sequences) {
    sequence.forEach((chosen, layer) => {
      for (let from = 0; from < chosen.length; from += expertsPerToken) {
        for (let i = from; i < from + expertsPerToken; i++) {
          for (let j = i + 1; j < from + expertsPerToken; j++) {
            const [a, b] = chosen[i]! < chosen[j]! ? [chosen[i]!, chosen[j]!] : [chosen[j]!, chosen[i]!]
            counts[(layer * experts + a) * experts + b]!++
          }
        }
      }
    })
  }
  const pairs: { layer: number; a: number; b: number; rate: number }[] = []
  counts.forEach((rate, at) => {
    if (rate > 0) pairs.push({ layer: Math.floor(at / experts ** 2), a: Math.floor(at / experts) % experts, b: at % experts, rate })
  })
  return pairs
}
