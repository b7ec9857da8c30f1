/** The other architectures against Hugging Face transformers. */
import { goldenSuite } from './golden-suite.ts'

goldenSuite('random-qwen2moe')
goldenSuite('random-gptoss')
goldenSuite('random-gptoss-mxfp4')
goldenSuite('random-deepseek2')
goldenSuite('random-deepseek2-lite')
goldenSuite('random-deepseek3')
goldenSuite('random-deepseek3-fp8')
goldenSuite('random-granitemoe')
goldenSuite('random-glm4moe')
