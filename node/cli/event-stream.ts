/** The `data:` payloads of a server-sent event stream (WHATWG HTML, section 9.2), one by one; comments are skipped. */
export async function* readEventStream(response: Response): AsyncGenerator<string> {
  if (response.body === null) return
  let rest = ''
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) if (line.startsWith('data:')) yield line.slice(5).trim()
  }
}
