/** `node device-probe.ts <provider>`: prints `probe: works`, or `probe: ` and why onnxruntime can't compute with that provider here. */
import { InferenceSession, listSupportedBackends, Tensor } from 'onnxruntime-node'
import { OnnxGraph } from './onnx-graph.ts'

const provider = process.argv[2] ?? ''
process.env['ORT_DISABLE_TELEMETRY'] = '1'

console.log(`probe: ${(await reasonAgainst()) ?? 'works'}`)
// Drivers leave threads behind.
process.exit(0)

async function reasonAgainst(): Promise<string | null> {
  const built = listSupportedBackends().map(({ name }) => name)
  if (!built.includes(provider)) return `onnxruntime for ${process.platform}-${process.arch} is built for ${built.join(', ')} only`
  const graph = new OnnxGraph('probe')
  graph.input('x', 'f32', ['n'])
  graph.output('y', 'f32', ['n'])
  graph.node('Mul', ['x', 'x'], ['y'])
  try {
    const session = await InferenceSession.create(graph.toBytes(), { executionProviders: [provider] })
    const { y } = await session.run({ x: new Tensor('float32', Float32Array.of(3), [1]) })
    return y?.data[0] === 9 ? null : 'it computes wrong results'
  } catch (error) {
    const lines = (error as Error).message.trim().split('\n')
    // The first line may be nothing but the place in onnxruntime's sources.
    return lines.map((line) => line.replace(/^\/\S+ .*? was false\. /, '').trim()).join(' ')
  }
}
