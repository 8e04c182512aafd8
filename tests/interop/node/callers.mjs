// The official Node SDK, unmodified, with a key that is no caller's: refused on both routes, before
// anything reaches Alipay.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { AlipaySdk } from 'alipay-sdk';

const env = process.env;
const read = (name) => readFileSync(env[name], 'utf8').trim();
const sdk = new AlipaySdk({
  appId: env.APP_ID,
  privateKey: read('APP_PRIVATE_KEY'),
  alipayPublicKey: read('ALIPAY_PUBLIC_KEY'),
  gateway: env.ALIPAY_GATEWAY,
  endpoint: env.ALIPAY_ENDPOINT,
  keyType: 'PKCS8',
});
const appAuthToken = env.MERCHANT_TOKEN;

let passed = 0;
let failed = 0;

async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok      node callers: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  node callers: ${name}: ${error.message.slice(0, 600)}`);
  }
}

await check('a key that is nobody\'s is refused on v2', async () => {
  const reply = await sdk.exec('alipay.trade.query', {
    appAuthToken,
    bizContent: { outTradeNo: '1' },
  });
  assert.equal(reply.subCode, 'sidecar.caller-unauthenticated', JSON.stringify(reply));
});
await check('a key that is nobody\'s is refused on v3', async () => {
  const body = { out_trade_no: '1' };
  const call = sdk.curl('POST', '/v3/alipay/trade/query', { body, appAuthToken });
  await assert.rejects(call, (error) => error.code === 'sidecar.caller-unauthenticated');
});

console.log(`node callers: passed=${passed} failed=${failed}`);
process.exit(failed > 0 ? 1 : 0);
