// The official Node SDK, unmodified, against the gateway and v3 endpoint that the environment names.
//
// CASES says what is run (v2, v3, encrypted), APP_MODE how the SDK is set up (key, certificate).
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { AlipaySdk, AlipayFormData } from 'alipay-sdk';

const env = process.env;
const direct = env.MODE === 'direct';
const certificates = env.APP_MODE === 'certificate';
const groups = (env.CASES ?? 'v2').split(' ');
const label = `node ${env.MODE} ${env.APP_MODE ?? 'key'}`;
const read = (name) => readFileSync(env[name], 'utf8').trim();
const config = {
  appId: env.APP_ID,
  privateKey: read('APP_PRIVATE_KEY'),
  gateway: env.ALIPAY_GATEWAY,
  endpoint: env.ALIPAY_ENDPOINT,
  keyType: 'PKCS8',
  encryptKey: env.ENCRYPT_KEY,
  ...(certificates ? {
    appCertContent: read('APP_CERT'),
    alipayPublicCertContent: read('ALIPAY_CERT'),
    alipayRootCertContent: read('ALIPAY_ROOT_CERT'),
  } : { alipayPublicKey: read('ALIPAY_PUBLIC_KEY') }),
};
const sdk = new AlipaySdk({ ...config });
const appAuthToken = env.MERCHANT_TOKEN;
const authAppId = env.AUTH_APP_ID;
const orders = `node-${env.MODE}-${Date.now()}-`;
const query = '/v3/alipay/trade/query';

let passed = 0;
let failed = 0;

async function test(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok      ${label}: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${label}: ${name}: ${error.message.slice(0, 600)}`);
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

async function v2() {
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
    // Alipay refuses a spent code; a sidecar doesn't send it a second time.
    const again = call('alipay.system.oauth.token', { grantType: 'authorization_code', code });
    if (direct) assert.equal((await again).subCode, 'isv.code-invalid');
    else await assert.rejects(again, env.MODE === 'local' ? /sidecar\.parameter-invalid/ : /signature/);
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
}

/** One verified v3 call in the merchant's name; gives the answer's body. */
async function curl(verb, path, options = {}) {
  const { data } = await sdk.curl(verb, path, { appAuthToken, ...options });
  return data;
}

async function v3() {
  const trade = { out_trade_no: `${orders}3`, total_amount: '8.88', subject: order.subject };
  const named = { out_trade_no: trade.out_trade_no };

  await test('v3: a trade is created, found and closed', async () => {
    const created = await curl('POST', '/v3/alipay/trade/create', { body: trade });
    assert.equal(created.out_trade_no, trade.out_trade_no, JSON.stringify(created));
    const found = await curl('POST', query, { body: named });
    assert.equal(found.trade_status, 'WAIT_BUYER_PAY', JSON.stringify(found));
    await curl('POST', '/v3/alipay/trade/close', { body: named });
    const closed = await curl('POST', query, { body: named });
    assert.equal(closed.trade_status, 'TRADE_CLOSED', JSON.stringify(closed));
  });

  await test('v3: a business failure is an error with a code', async () => {
    const missing = curl('POST', query, { body: { out_trade_no: `${orders}none` } });
    await assert.rejects(missing, { code: 'ACQ.TRADE_NOT_EXIST', responseHttpStatus: 400 });
  });

  await test('v3: a query is signed as it is written', async () => {
    const path = '/v3/alipay/simulator/interop';
    const answer = { method: 'GET', path, status: 200, body: '{"a":"中"}' };
    await control('POST', 'answer-v3', answer);
    const data = await curl('GET', path, { query: { 名: '中 文+&', empty: '' } });
    assert.deepEqual(data, { a: '中' });
  });

  await test('v3: PUT, PATCH and DELETE are calls too', async () => {
    const path = '/v3/alipay/simulator/interop/1';
    for (const method of ['PUT', 'PATCH', 'DELETE']) {
      await control('POST', 'answer-v3', { method, path, status: 200, body: `{"a":"${method}"}` });
      const options = method === 'DELETE' ? {} : { body: { b: '中' } };
      assert.deepEqual(await curl(method, path, options), { a: method });
    }
  });

  await test('v3: an upload signs its data part alone', async () => {
    const form = new AlipayFormData();
    form.addField('biz_code', '海底捞');
    form.addFile('file_content', '图.png', Buffer.from('PNG\r\n--x'));
    const data = await curl('POST', '/v3/alipay/open/file/upload', { form });
    assert.ok(data.file_id, JSON.stringify(data));
  });

  for (const fault of ['tampered', 'tampered-sign', 'unsigned', 'html', 'reset']) {
    await test(`v3: the SDK refuses an answer that is ${fault}`, () => played(fault, async () => {
      await assert.rejects(curl('POST', query, { body: named }));
    }));
  }

  if (!direct) return;
  await test('v3: a token is queried without a merchant', async () => {
    const path = '/v3/alipay/open/auth/token/app/query';
    const { data } = await sdk.curl('GET', path, { query: { app_auth_token: appAuthToken } });
    assert.equal(data.auth_app_id, authAppId, JSON.stringify(data));
  });
  await test('v3: a token that has timed out is told by its code', async () => {
    await played('token-timeout', async () => {
      const answer = curl('POST', query, { body: named });
      await assert.rejects(answer, { code: /app-auth-token-time-out/ });
    });
  });
}

async function encrypted() {
  // The SDK looks for an object to verify and finds none in ciphertext: it can't check these
  // signatures in v2.
  const send = (method, bizContent) => sdk.exec(method, { appAuthToken, bizContent, needEncrypt: true });
  const trade = { outTradeNo: `${orders}e`, totalAmount: '8.88', subject: order.subject };

  await test('an encrypted call and its reply are understood', async () => {
    const created = await send('alipay.trade.create', trade);
    assert.equal(created.outTradeNo, trade.outTradeNo, JSON.stringify(created));
    const found = await send('alipay.trade.query', { outTradeNo: trade.outTradeNo });
    assert.equal(found.tradeStatus, 'WAIT_BUYER_PAY', JSON.stringify(found));
  });

  if (groups.includes('v3')) {
    await test('v3: an encrypted call and its answer are understood', async () => {
      const body = { out_trade_no: trade.outTradeNo };
      const found = await curl('POST', query, { body, needEncrypt: true });
      assert.equal(found.trade_status, 'WAIT_BUYER_PAY', JSON.stringify(found));
    });
  }

  await test('client data is opened by the merchant\'s key', async () => {
    const phone = { code: '10000', msg: 'Success', mobile: '13800000000' };
    const wanted = { auth_app_id: authAppId, json: JSON.stringify(phone) };
    const { message } = await control('POST', 'client-data', wanted);
    const { response, sign } = JSON.parse(message);
    assert.equal(sdk.rsaCheck(`"${response}"`, sign), true);
    const host = new AlipaySdk({ ...config, encryptKey: env.MERCHANT_ENCRYPT_KEY });
    assert.deepEqual(JSON.parse(host.aesDecrypt(response)), phone);
  });

  await test('a merchant\'s key is given to an encrypted call', async () => {
    const bizContent = { merchantAppId: authAppId };
    const method = 'alipay.open.auth.app.aes.get';
    // The ISV's own call: Alipay takes no token for it, and the sidecar wants that said.
    const own = direct ? {} : { appAuthToken: 'merchant:self' };
    const reply = await sdk.exec(method, { ...own, bizContent, needEncrypt: true });
    assert.equal(reply.aesKey, env.MERCHANT_ENCRYPT_KEY, JSON.stringify(reply));
  });

  await test('the SDK refuses ciphertext it cannot open', () => played('garbled-ciphertext', async () => {
    await assert.rejects(send('alipay.trade.query', { outTradeNo: trade.outTradeNo }));
  }));
}

async function rotation() {
  await test('a certificate that is not in force any more can be downloaded', async () => {
    await control('POST', 'rotate-certificate');
    const bizContent = { alipayCertSn: sdk.config.alipayCertSn };
    const method = 'alipay.open.app.alipaycert.download';
    const reply = await sdk.exec(method, { bizContent });
    const pem = Buffer.from(reply.alipayCertContent, 'base64').toString().trim();
    assert.equal(pem, config.alipayPublicCertContent);
  });

  await test('the SDK refuses what another certificate has signed', async () => {
    const bizContent = { outTradeNo: order.outTradeNo };
    await assert.rejects(call('alipay.trade.query', { bizContent }));
    const code = 'response-alipay-sn-verify-error';
    const body = { out_trade_no: `${orders}none` };
    await assert.rejects(curl('POST', '/v3/alipay/trade/cancel', { body }), { code });
  });
}

if (groups.includes('v2')) await v2();
if (groups.includes('v3')) await v3();
if (groups.includes('encrypted')) await encrypted();
// Last: the SDK does not get over it.
if (certificates && direct) await rotation();

backend.server.close();
console.log(`${label}: passed=${passed} failed=${failed}`);
process.exit(failed === 0 ? 0 : 1);
