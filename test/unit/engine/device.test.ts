import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chooseDevice } from '../../../node/engine/device.ts'
import type { Provider } from '../../../node/engine/device.ts'
import { feed, openLocally } from '../../helpers/local-generation.ts'
import { engineForTest, packForTest } from '../../helpers/packed-model.ts'

/** A machine on which these work. */
const machine = (...working: Provider[]) => {
  const tried: Provider[] = []
  const probe = async (provider: Provider): Promise<string | null> => {
    tried.push(provider)
    return working.includes(provider) ? null : `no ${provider} here`
  }
  return { probe, tried }
}

test('the processor is not probed', async () => {
  const { probe, tried } = machine()
  assert.deepEqual(await chooseDevice('cpu', probe), { provider: 'cpu', refused: [] })
  assert.deepEqual(tried, [])
})

test('a device that works is used', async () => {
  assert.deepEqual(await chooseDevice('webgpu', machine('webgpu').probe), { provider: 'webgpu', refused: [] })
})

test('a device that does not work gives way to the processor, and says why', async () => {
  const refused = [{ provider: 'cuda', reason: 'no cuda here' }]
  assert.deepEqual(await chooseDevice('cuda', machine('webgpu').probe), { provider: 'cpu', refused })
})

test('auto takes the first that works', async () => {
  const { probe, tried } = machine('dml', 'webgpu')
  const choice = await chooseDevice('auto', probe)
  assert.equal(choice.provider, 'dml')
  assert.deepEqual(
    choice.refused.map(({ provider }) => provider),
    ['cuda', 'coreml'],
  )
  assert.deepEqual(tried, ['cuda', 'coreml', 'dml'])
  assert.equal((await chooseDevice('auto', machine().probe)).provider, 'cpu')
})

test('a provider that this build of onnxruntime lacks is refused by name of what it has', async () => {
  const lacking = process.platform === 'darwin' ? 'dml' : 'coreml'
  const { provider, refused } = await chooseDevice(lacking)
  assert.equal(provider, 'cpu')
  assert.match(refused[0]!.reason, new RegExp(`^onnxruntime for ${process.platform}-${process.arch} is built for cpu`))
})

test('an engine whose provider lacks everything computes on the processor', async (t) => {
  const { model } = await packForTest(t, 'random-olmoe')
  const logitsWith = async (provider: Provider): Promise<Float32Array> => {
    const local = await openLocally(engineForTest(t, 1, { provider }), model)
    return (await feed(local, local.trunk.createCache(), [1, 2])).logits
  }
  assert.deepEqual(await logitsWith(process.platform === 'darwin' ? 'dml' : 'coreml'), await logitsWith('cpu'))
})
