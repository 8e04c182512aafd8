// Errors of a sidecar that signs anew, as the official Node SDK, unmodified, reads them: verified, by
// their code. What is called never reaches Alipay.
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
  keyType: 'PKCS8',
});
const bizContent = { outTradeNo: '1' };

let passed = 0;
let failed = 0;

async function check(code, method, params) {
  try {
    const reply = await sdk.exec(method, { bizContent, ...params }, { validateSign: true });
    assert.equal(reply.subCode, `sidecar.${code}`, JSON.stringify(reply));
    passed += 1;
    console.log(`ok      node errors: ${code} of ${method}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  node errors: ${code} of ${method}: ${error.message.slice(0, 600)}`);
  }
}

const nobody = { appAuthToken: 'merchant:nobody' };
await check('merchant-unknown', 'alipay.trade.query', nobody);
await check('merchant-unknown', 'a.b', nobody);
await check('merchant-unknown', `alipay.${'long'.repeat(30)}`, nobody);
await check('merchant-required', 'alipay.trade.pay', {});
await check('method-invalid', 'alipay', nobody);
await check('notify-url-forbidden', 'alipay.trade.create', {
  appAuthToken: env.MERCHANT_TOKEN,
  notifyUrl: '//evil.example/',
});

console.log(`node errors: passed=${passed} failed=${failed}`);
process.exit(failed > 0 ? 1 : 0);
