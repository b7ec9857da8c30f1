/**
 * The merges of byte-pair encoding that a SentencePiece vocabulary amounts to: every way to put a token together from two others, tokens of
 * higher score first, as Hugging Face's converter lists them (`generate_merges` of convert_slow_tokenizer.py).
 */
export function sentencePieceMerges(tokens: readonly string[], scores: readonly number[]): [string, string][] {
  const ids = new Map(tokens.map((token, id) => [token, id]))
  const merges: { readonly left: string; readonly right: string; readonly score: number }[] = []
  for (const [id, token] of tokens.entries()) {
    const letters = Array.from(token)
    const local: { left: string; right: string; score: number }[] = []
    for (let at = 1; at < letters.length; at++) {
      const left = letters.slice(0, at).join('')
      const right = letters.slice(at).join('')
      if (ids.has(left) && ids.has(right)) local.push({ left, right, score: scores[id]! })
    }
    merges.push(...local.sort((a, b) => ids.get(a.left)! - ids.get(b.left)! || ids.get(a.right)! - ids.get(b.right)!))
  }
  const length = (text: string): number => Array.from(text).length
  merges.sort((a, b) => b.score - a.score || length(b.left) - length(a.left) || length(b.right) - length(a.right))
  return merges.map(({ left, right }) => [left, right])
}
