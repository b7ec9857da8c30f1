import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'

/** The dashboard, with the policy that lets only its own script and style run. */
export interface Page {
  readonly html: string
  readonly csp: string
}

const PAGE_URL = new URL('../dashboard/index.html', import.meta.url)

/** Reads the dashboard's file and computes its Content-Security-Policy. */
export async function loadPage(): Promise<Page> {
  const html = await readFile(PAGE_URL, 'utf8')
  const csp = [
    "default-src 'none'",
    `script-src ${hashes(html, 'script')}`,
    `style-src ${hashes(html, 'style')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
  return { html, csp }
}

function hashes(html: string, tag: 'script' | 'style'): string {
  const inline = [...html.matchAll(new RegExp(`<${tag}>([^]*?)</${tag}>`, 'g'))]
  return (
    inline
      .map(
        ([, text]) =>
          `'sha256-${createHash('sha256')
            .update(text ?? '')
            .digest('base64')}'`,
      )
      .join(' ') || "'none'"
  )
}
