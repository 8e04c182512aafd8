// The official Node SDK, unmodified, against the gateway that the environment names.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { AlipaySdk, AlipayFormData } from 'alipay-sdk';

const env = process.env;
const direct = env.MODE === 'direct';
const sdk = new AlipaySdk({
  appId: env.APP_ID,
  privateKey: readFileSync(env.APP_PRIVATE_KEY, 'utf8').trim(),
  alipayPublicKey: readFileSync(env.ALIPAY_PUBLIC_KEY, 'utf8').trim(),
  gateway: env.ALIPAY_GATEWAY,
  keyType: 'PKCS8',
});
const appAuthToken = env.MERCHANT_TOKEN;
const authAppId = env.AUTH_APP_ID;
const orders = `node-${env.MODE}-${Date.now()}-`;

let passed = 0;
let failed = 0;

async function test(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok      node ${env.MODE}: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  node ${env.MODE}: ${name}: ${error.message.slice(0, 600)}`);
  }
}

/** One verified call in the merchant's name; a signed error of the sidecar's own is no reply. */
async function call(method, params = {}) {
  const reply = await sdk.exec(method, { appAuthToken, ...params }, { validateSign: true });
  if (reply.subCode?.startsWith('sidecar.')) throw new Error(reply.subCode);
  return reply;
}

async function control(verb, path, body) {
  const answer = await fetch(`${env.SIMULATOR}/simulator/${path}`, {
    method: verb,
    body: body && JSON.stringify(body),
  });
  const value = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(value));
  return value;
}

async function played(name, body) {
  // More than once: the SDK's HTTP client silently sends a call again after a reset,
  // and a sidecar a pure query.
  await control('POST', 'fault', { name, count: 5 });
  try {
    await body();
  } finally {
    await control('DELETE', 'fault');
  }
}

/** Takes notifications as a merchant's backend would, and hands them to whoever waits. */
class Backend {
  received = [];
  waiting = [];

  async listen() {
    this.server = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const form = Object.fromEntries(new URLSearchParams(Buffer.concat(chunks).toString()));
      response.end('success');
      const waiter = this.waiting.shift();
      if (waiter) waiter(form);
      else this.received.push(form);
    });
    const [host, port] = env.NOTIFY_LISTEN.split(':');
    this.server.listen(Number(port), host);
    await once(this.server, 'listening');
  }

  next() {
    if (this.received.length > 0) return Promise.resolve(this.received.shift());
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('no notification within 10 s')), 10_000);
      this.waiting.push((form) => { clearTimeout(timer); resolve(form); });
    });
  }
}

const backend = new Backend();
await backend.listen();
const order = { outTradeNo: `${orders}1`, totalAmount: '88.88', subject: '中文+&=% "商品" <b>' };

await test('trade.create is accepted and its reply verifies', async () => {
  const reply = await call('alipay.trade.create', { bizContent: order, notifyUrl: env.NOTIFY_URL });
  assert.equal(reply.code, '10000', JSON.stringify(reply));
  assert.equal(reply.outTradeNo, order.outTradeNo);
});

await test('trade.query sees the trade', async () => {
  const reply = await call('alipay.trade.query', { bizContent: { outTradeNo: order.outTradeNo } });
  assert.equal(reply.tradeStatus, 'WAIT_BUYER_PAY', JSON.stringify(reply));
});

await test('the notification of a payment verifies', async () => {
  await control('POST', 'pay', { out_trade_no: order.outTradeNo });
  const form = await backend.next();
  assert.equal(form.trade_status, 'TRADE_SUCCESS');
  assert.equal(form.subject, order.subject);
  assert.equal(sdk.checkNotifySignV2(form), true);
  assert.equal(sdk.checkNotifySignV2({ ...form, total_amount: '0.01' }), false);
});

await test('a partial refund is booked, found, and notified', async () => {
  const refund = { outTradeNo: order.outTradeNo, refundAmount: '8.80', outRequestNo: 'r1' };
  const reply = await call('alipay.trade.refund', { bizContent: refund });
  assert.equal(reply.fundChange, 'Y', JSON.stringify(reply));
  assert.equal(reply.refundFee, '8.80');
  const found = await call('alipay.trade.fastpay.refund.query', {
    bizContent: { outTradeNo: order.outTradeNo, outRequestNo: 'r1' },
  });
  assert.equal(found.refundStatus, 'REFUND_SUCCESS', JSON.stringify(found));
  const form = await backend.next();
  assert.equal(form.refund_fee, '8.80');
  assert.equal(sdk.checkNotifySignV2(form), true);
});

await test('a business failure is signed and passed on', async () => {
  const reply = await call('alipay.trade.query', { bizContent: { outTradeNo: `${orders}none` } });
  assert.equal(reply.code, '40004', JSON.stringify(reply));
  assert.equal(reply.subCode, 'ACQ.TRADE_NOT_EXIST');
});

await test('an auth_code becomes a user token, and that the profile', async () => {
  const { auth_code: code } = await control('POST', 'auth-code', { auth_app_id: authAppId });
  const token = await call('alipay.system.oauth.token', { grantType: 'authorization_code', code });
  assert.equal(token.code, undefined, JSON.stringify(token));
  assert.match(token.accessToken, /^authusrB/);
  const share = await call('alipay.user.info.share', { authToken: token.accessToken });
  assert.equal(share.code, '10000', JSON.stringify(share));
  assert.equal(share.nickName, '模拟买家');
  const again = await call('alipay.system.oauth.token', { grantType: 'authorization_code', code });
  assert.equal(again.subCode, 'isv.code-invalid', JSON.stringify(again));
});

await test('an app_auth_code is exchanged', async () => {
  const issued = await control('POST', 'app-auth-code', { auth_app_id: env.SECOND_AUTH_APP_ID });
  const bizContent = { grantType: 'authorization_code', code: issued.app_auth_code };
  const method = 'alipay.open.auth.token.app';
  const reply = await sdk.exec(method, { bizContent }, { validateSign: true });
  assert.equal(reply.code, '10000', JSON.stringify(reply));
  assert.equal(reply.tokens[0].authAppId, env.SECOND_AUTH_APP_ID);
});

await test('an upload signs its text fields alone', async () => {
  const formData = new AlipayFormData();
  formData.addField('imageType', 'png');
  formData.addField('imageName', '海底捞');
  formData.addField('appAuthToken', appAuthToken);
  formData.addFile('imageContent', 'a.png', Buffer.from('PNG\r\n--x'));
  const method = 'alipay.offline.material.image.upload';
  const reply = await sdk.exec(method, {}, { formData, validateSign: true });
  assert.equal(reply.code, '10000', JSON.stringify(reply));
});

for (const fault of ['tampered', 'tampered-sign', 'unsigned', 'html', 'reset']) {
  await test(`the SDK refuses a reply that is ${fault}`, () => played(fault, async () => {
    const bizContent = { outTradeNo: order.outTradeNo };
    await assert.rejects(call('alipay.trade.query', { bizContent }));
  }));
}

if (direct) {
  await test('a third-party app without a token is told so', async () => {
    const bizContent = { outTradeNo: order.outTradeNo };
    const reply = await sdk.exec('alipay.trade.query', { bizContent }, { validateSign: true });
    assert.equal(reply.subCode, 'isv.self-invoke-forbidden', JSON.stringify(reply));
  });
}

backend.server.close();
console.log(`node ${env.MODE}: passed=${passed} failed=${failed}`);
process.exit(failed === 0 ? 0 : 1);
