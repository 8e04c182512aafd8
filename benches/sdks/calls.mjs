// Calls a second of a Node backend, by the official SDK or through a sidecar: IN_FLIGHT at once.
//
//   node calls.mjs sdk|sidecar SECONDS
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { createRequire } from 'node:module';

const [how, seconds] = process.argv.slice(2);
const env = process.env;
const inFlight = Number(env.IN_FLIGHT);
const content = { out_trade_no: '20261122180000000001', query_options: ['trade_settle_info'] };

/** The SDK signs, sends and verifies. */
function sdk() {
  const { AlipaySdk } = createRequire(env.MODULES)('alipay-sdk');
  const read = (name) => readFileSync(env[name], 'utf8').trim();
  const client = new AlipaySdk({
    appId: env.APP_ID,
    privateKey: read('APP_PRIVATE_KEY'),
    alipayPublicKey: read('ALIPAY_PUBLIC_KEY'),
    gateway: env.GATEWAY,
    keyType: 'PKCS8',
  });
  const params = { appAuthToken: '202611BB00000000000000000000000000000000', bizContent: content };
  return async () => {
    const reply = await client.exec('alipay.trade.query', params, { validateSign: true });
    if (reply.code !== '10000') throw new Error(JSON.stringify(reply));
  };
}

/** The sidecar does; Node only asks. */
function sidecar() {
  const agent = new Agent({ keepAlive: true, maxSockets: inFlight });
  const options = {
    agent,
    method: 'POST',
    headers: { 'alipay-merchant': 'shop', 'content-type': 'application/json' },
  };
  const url = `${env.SIDECAR_URL}/v2/alipay.trade.query`;
  return () => new Promise((resolve, reject) => {
    const sent = request(url, options, (answer) => {
      const pieces = [];
      answer.on('data', (piece) => pieces.push(piece));
      answer.on('error', reject);
      answer.on('end', () => {
        const text = Buffer.concat(pieces).toString();
        const verified = answer.headers['alipay-sidecar-verified'] === 'true';
        if (!verified || JSON.parse(text).code !== '10000') reject(new Error(text));
        else resolve();
      });
    });
    sent.on('error', reject);
    sent.end(JSON.stringify(content));
  });
}

async function callUntil(call, end) {
  let calls = 0;
  while (performance.now() < end) {
    await call();
    calls += 1;
  }
  return calls;
}

const call = { sdk, sidecar }[how]();
const slice = async (milliseconds) => {
  const began = performance.now();
  const callers = Array.from({ length: inFlight }, () => callUntil(call, began + milliseconds));
  const calls = (await Promise.all(callers)).reduce((sum, each) => sum + each, 0);
  return calls / ((performance.now() - began) / 1000);
};
// What compiles its code while it runs is given time for it.
await slice(Number(seconds) * 500);
console.log(await slice(Number(seconds) * 1000));
process.exit(0);
