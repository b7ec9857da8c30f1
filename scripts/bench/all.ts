/** `npm run bench`: every bench, one after the other. */
import { benchMain } from './bench.ts'
import { concurrentBench } from './concurrent.ts'
import { decodeBench } from './decode.ts'
import { dispatchPlanBench } from './dispatch-plan.ts'
import { expertCallsBench } from './expert-calls.ts'
import { rankingBench } from './ranking.ts'
import { startUpBench } from './start-up.ts'

await benchMain('all', [decodeBench, concurrentBench, expertCallsBench, startUpBench, dispatchPlanBench, rankingBench])
