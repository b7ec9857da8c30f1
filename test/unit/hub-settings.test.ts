import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_HUB, hubSettings } from '../../node/hub-settings.ts'

test('the flag comes before HF_ENDPOINT, and that before the default; the token is from HF_TOKEN', () => {
  assert.deepEqual(hubSettings(undefined, {}), { endpoint: DEFAULT_HUB, token: null })
  assert.deepEqual(hubSettings(undefined, { HF_ENDPOINT: 'https://mirror.example/', HF_TOKEN: 'hf_x' }), {
    endpoint: 'https://mirror.example',
    token: 'hf_x',
  })
  assert.equal(
    hubSettings('http://127.0.0.1:8080/hub/', { HF_ENDPOINT: 'https://mirror.example', HF_TOKEN: 'hf_x' }).endpoint,
    'http://127.0.0.1:8080/hub',
  )
})

test('refuses what is no address, and to send a token in clear text', () => {
  for (const bad of ['mirror', 'ftp://mirror.example', 'https://me:secret@mirror.example', 'https://mirror.example/?a=b']) {
    assert.throws(() => hubSettings(bad, {}), { name: 'ConfigError', message: /^--hub .* is no address of a hub/ }, bad)
  }
  assert.throws(() => hubSettings(undefined, { HF_ENDPOINT: 'x' }), { name: 'ConfigError', message: /^HF_ENDPOINT x is no address/ })
  assert.throws(() => hubSettings('http://mirror.example', { HF_TOKEN: 'hf_x' }), {
    name: 'ConfigError',
    message: /unencrypted: use https/,
  })
  assert.equal(hubSettings('http://mirror.example', {}).token, null)
})
