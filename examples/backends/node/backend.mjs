// A plugin's backend behind alipay-sidecar, with Node's own modules alone.
//
// Routes and environment: ../README.md. Orders are kept in memory here; keep yours in a database, and
// commit before you answer `success`.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const SIDECAR = process.env.SIDECAR ?? 'http://127.0.0.1:2088';
const MERCHANT = process.env.MERCHANT ?? 'shop';
const WEBHOOK_SECRET = (process.env.WEBHOOK_SECRET ?? '').trim();
const orders = new Map();

/** A call that brought no verified answer; `outcome` says whether Alipay may have acted on it. */
class Failed extends Error {
  constructor(code, outcome) {
    super(`${code} (${outcome})`);
    Object.assign(this, { code, outcome });
  }
}

/** Alipay's own, verified no. */
class Refused extends Error {
  constructor(node) {
    super(`${node.sub_code}: ${node.sub_msg}`);
    this.code = node.sub_code ?? node.code;
  }
}

/** The order is known, with another amount. */
class Conflict extends Error {}

/** Calls Alipay for the merchant: unsigned; what comes back is verified. */
async function call(method, biz, params = {}) {
  let reply;
  try {
    reply = await fetch(`${SIDECAR}/v2/${method}?${new URLSearchParams(params)}`, {
      method: 'POST',
      headers: { 'Alipay-Merchant': MERCHANT, 'Content-Type': 'application/json' },
      body: biz ? JSON.stringify(biz) : '',
      // Longer than the sidecar's own deadline (15 s): it knows better what became of a call.
      signal: AbortSignal.timeout(20_000),
    });
  } catch {
    throw new Failed('sidecar-unreachable', 'unknown');
  }
  if (!reply.ok) {
    throw new Failed(
      reply.headers.get('alipay-sidecar-error'),
      reply.headers.get('alipay-sidecar-outcome') ?? 'unknown',
    );
  }
  const node = await reply.json().catch(() => {
    // It was cut off: it may have been a success.
    throw new Failed('reply-lost', 'unknown');
  });
  const verified = reply.headers.get('alipay-sidecar-verified');
  // `unsigned-error`: nobody knows who said it.
  if (verified !== 'true') throw new Failed(verified, 'unknown');
  // Alipay leaves `code` out of some successes (alipay.system.oauth.token). 10003 is one, too: under way,
  // and not finished, which a notification or a query tells.
  const { code = '10000', sub_code = '' } = node;
  if (code === '10000' || code === '10003') return node;
  // Alipay stumbled, and may have acted all the same.
  if (code === '20000' || sub_code.endsWith('.SYSTEM_ERROR') || sub_code.startsWith('isp.')) {
    throw new Failed(sub_code || code, 'unknown');
  }
  throw new Refused(node);
}

async function login(code) {
  const params = { grant_type: 'authorization_code', code };
  const token = await call('alipay.system.oauth.token', undefined, params);
  const user = token.user_id || token.open_id;
  if (!user) throw new Failed('user-missing', 'unknown');
  return { user };
}

/** An amount in fen, undefined where it is none: Alipay says `8.80` of what was ordered as `8.8`. */
function fen(amount) {
  const parts = /^([0-9]{1,9})(?:\.([0-9]{1,2}))?$/.exec(amount ?? '');
  return parts ? Number(parts[1] + (parts[2] ?? '').padEnd(2, '0')) : undefined;
}

async function create(order, amount, user) {
  if (!fen(amount)) throw new TypeError('amount is none');
  const biz = {
    out_trade_no: order,
    total_amount: amount,
    subject: `order ${order}`,
    buyer_id: user,
    product_code: 'JSAPI_PAY',
  };
  // Known before it can be paid: the notification may be quicker than the reply.
  if (!orders.has(order)) orders.set(order, { order, amount, trade_no: null, paid: false });
  const known = orders.get(order);
  if (fen(known.amount) !== fen(amount)) throw new Conflict('the order has another amount');
  let trade;
  try {
    const notify_url = `/orders/${encodeURIComponent(order)}`;
    trade = await call('alipay.trade.create', biz, { notify_url });
  } catch (failed) {
    if (failed.outcome !== 'unknown') throw failed;
    trade = await query(order);
  }
  // A reply may leave it out, as while a payment is under way; what is known stays. Without any, no
  // notification would ever be taken for this order's own.
  if (!(trade.trade_no || known.trade_no)) {
    trade = await query(order);
    if (!trade.trade_no) throw new Failed('trade-no-missing', 'unknown');
  }
  known.trade_no = trade.trade_no || known.trade_no;
  return known;
}

/** Asks for a trade whose making has an unknown outcome: bytes had left, so it may be there. */
function query(order) {
  return call('alipay.trade.query', { out_trade_no: order }).catch((error) => {
    // Of the query, and not of the making; a trade that isn't there yet may still come to be.
    throw new Failed(error.code, 'unknown');
  });
}

/** Whether the sidecar sent this (Standard Webhooks): whoever reaches this port may claim to be it. */
function isFromSidecar(headers, body) {
  const { 'webhook-id': id, 'webhook-timestamp': sent, 'webhook-signature': signature = '' } = headers;
  // More than five minutes off: somebody kept it, and sends it again.
  if (!(Math.abs(Date.now() / 1000 - Number(sent)) <= 300)) return false;
  // What delivery.signing_secret means: base64 behind `whsec_`, else the text itself.
  const encoded = WEBHOOK_SECRET.match(/^whsec_(.*)$/)?.[1];
  const key = encoded === undefined ? Buffer.from(WEBHOOK_SECRET) : Buffer.from(encoded, 'base64');
  const mac = createHmac('sha256', key).update(`${id}.${sent}.`).update(body).digest('base64');
  const [given, expected] = [Buffer.from(signature), Buffer.from(`v1,${mac}`)];
  return key.length > 0 && given.length === expected.length && timingSafeEqual(given, expected);
}

/** Takes what Alipay told; the sidecar verified it. May come twice, so it only ever says “is so”. */
function event(kind, form) {
  const paid = ['TRADE_SUCCESS', 'TRADE_FINISHED'].includes(form.get('trade_status'));
  if (kind !== 'trade_status_sync' || !paid) return true;
  const order = orders.get(form.get('out_trade_no'));
  if (!order || fen(order.amount) !== fen(form.get('total_amount'))) return false;
  // Another merchant may have an order of this name. Before the reply told the trade, let it come again.
  if ((form.get('trade_no') ?? '') !== order.trade_no) return false;
  order.paid = true;
  return true;
}

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const json = (status, value) => [status, 'application/json', JSON.stringify(value)];

async function answer(request) {
  const url = new URL(request.url, 'http://localhost');
  // By what needs no escapes.
  const order = url.pathname.match(/^\/orders\/([A-Za-z0-9_-]{1,64})$/)?.[1];
  const asked = (name) => {
    const value = url.searchParams.get(name);
    if (!value) throw new TypeError(`${name} is missing`);
    return value;
  };
  if (request.method === 'POST' && url.pathname === '/alipay/events') {
    const body = await bodyOf(request);
    if (!isFromSidecar(request.headers, body)) return [401, 'text/plain', 'not signed with WEBHOOK_SECRET'];
    // In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here.
    const form = new URLSearchParams(body.toString());
    const taken = event(request.headers['alipay-event-type'], form);
    return taken ? [200, 'text/plain', 'success'] : [500, 'text/plain', 'fail'];
  }
  if (request.method === 'GET' && url.pathname === '/login') return json(200, await login(asked('code')));
  if (request.method === 'POST' && order) return json(200, await create(order, asked('amount'), asked('user')));
  if (request.method === 'GET' && orders.has(order)) return json(200, orders.get(order));
  return json(404, {});
}

function complaint(error) {
  if (error instanceof Conflict) return json(409, { error: error.message });
  if (error instanceof Refused) return json(422, { error: error.code });
  if (error instanceof Failed) return json(502, { error: error.code, outcome: error.outcome });
  return json(error instanceof TypeError ? 400 : 500, { error: error.message });
}

createServer(async (request, response) => {
  const [status, kind, body] = await answer(request).catch(complaint);
  response.writeHead(status, { 'Content-Type': kind }).end(body);
}).listen(Number(process.env.PORT ?? 3000), '127.0.0.1');
