/** Machines on one wire that have nothing but link-local IPv6 addresses: they find each other, and one answers with the other's experts. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { LabNode } from '../../scripts/natlab/lab-node.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'
import { Wire } from '../../scripts/natlab/wire.ts'

const READY_MS = 40_000
const missing = await missingRequirement()

test(
  'nodes with link-local IPv6 only meet by mDNS and answer a query together',
  { skip: missing ?? false, timeout: 120_000 },
  async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'skein-natlab-'))
    const wire = await Wire.create()
    const nodes: LabNode[] = []
    t.after(async () => {
      await Promise.all(nodes.map((node) => node.stop()))
      await wire.close()
      await rm(dir, { recursive: true, force: true, maxRetries: 5 })
    })
    const start = async (machine: 'a' | 'b', host: string): Promise<LabNode> => {
      const common = ['--swarm', 'wire', '--store', join(dir, 'blobs'), '--data', join(dir, machine), '--name', machine]
      // Nothing is said of addresses: these are those that a node listens on by default.
      const node = await LabNode.start(wire, machine, [...common, '--host', host, '--threads', '1', '--api-port', '0'])
      nodes.push(node)
      return node
    }
    await start('b', 'all')
    const startedAt = performance.now()
    const a = await start('a', 'none')
    await a.until(({ ready }) => ready, 'coverage', READY_MS)
    t.diagnostic(`found after ${Math.round(performance.now() - startedAt)} ms, start of the node included`)
    assert.equal((await a.ask('Tell me a story about a dog.', 4)).report.exact, true)
    const { peers } = await a.status()
    assert.deepEqual(
      peers.filter(({ connected }) => connected).map(({ name }) => name),
      ['b'],
    )
  },
)
