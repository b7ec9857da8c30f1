import { table } from '../../node/cli/table.ts'
import { meetsBar } from './figures.ts'
import type { Figure } from './figures.ts'

/** Digits that a noisy machine can stand for. */
const SIGNIFICANT_DIGITS = 3

/** Figures, one a line. */
export function figureTable(figures: readonly Figure[]): string {
  return table(
    ['WHAT', 'UNIT', 'MEDIAN', 'P95', 'MIN', 'MAX', 'N', 'BAR'],
    figures.map((figure) => [
      figure.what,
      figure.unit,
      ...[figure.median, figure.p95, figure.min, figure.max].map(short),
      String(figure.n),
      barOf(figure),
    ]),
  )
}

function short(value: number | null): string {
  if (value === null) return '-'
  if (Math.abs(value) >= 10 ** (SIGNIFICANT_DIGITS - 1)) return Math.round(value).toLocaleString('en')
  return String(Number(value.toPrecision(SIGNIFICANT_DIGITS)))
}

function barOf(figure: Figure): string {
  const { bar } = figure
  if (bar === null) return ''
  const limit = bar.atLeast === undefined ? `≤ ${short(bar.atMost ?? null)}` : `≥ ${short(bar.atLeast)}`
  return `${limit} ${meetsBar(figure) === true ? 'met' : 'MISSED'}`
}
