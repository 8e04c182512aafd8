// A person at the console: logs in, looks at each page, delivers again, verifies again, changes the
// language, clicks faster than the answers come, and sees the sidecar gone. Fails where a page says something wrong, complains in the browser's log, or loads anything
// from elsewhere.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import puppeteer from 'puppeteer-core';

const { ADMIN, BACKEND_PORT, CHROMIUM_PATH, PICTURES, PROXY, SIMULATOR, TOKEN, WEBHOOK } = process.env;
const EVIL = '<img src=x onerror=alert(1)>';
let taking = false;
createServer((request, response) => {
  request.resume();
  request.on('end', () => response.writeHead(taking ? 200 : 500).end(taking ? 'success' : 'no'));
}).listen(Number(BACKEND_PORT), '127.0.0.1');

async function post(url, body, headers = {}) {
  const reply = await fetch(url, { method: 'POST', body, headers });
  return reply.text();
}

const call = (method, biz) => post(`${PROXY}/v2/${method}`, JSON.stringify(biz), { 'Alipay-Merchant': '2021000000001001', 'Content-Type': 'application/json' });

async function traffic() {
  for (let n = 0; n < 40; n += 1) {
    await call('alipay.trade.create', { out_trade_no: `${n}`, total_amount: '8.80', subject: 'tea' });
    if (n % 8 === 0) await call('alipay.trade.query', { out_trade_no: 'nobody' });
  }
}

async function prepare() {
  await post(`${PROXY}/v2/alipay.trade.create?notify_url=/orders/paid`, JSON.stringify({ out_trade_no: 'paid', total_amount: '8.80', subject: EVIL }),
    { 'Alipay-Merchant': '2021000000001001', 'Content-Type': 'application/json' });
  await post(`${SIMULATOR}/simulator/trigger/payment`, JSON.stringify({ out_trade_no: 'paid' }));
  const forged = new URLSearchParams({ app_id: '2021000000000001', notify_id: 'forged', notify_type: 'trade_status_sync', subject: EVIL, charset: 'utf-8', sign_type: 'RSA2', sign: 'AAAA' });
  assert.equal(await post(`${WEBHOOK}/alipay/notify`, forged), 'fail');
}

const browser = await puppeteer.launch({ executablePath: CHROMIUM_PATH, args: ['--no-sandbox', '--disable-gpu', '--lang=en', '--no-proxy-server', '--disable-dev-shm-usage'] });
const page = await browser.newPage();
const faults = [];
page.on('pageerror', (error) => faults.push(error.message));
// What the person says to a question that has to come; any other is a fault.
let question = null;
page.on('dialog', async (dialog) => {
  const { part, yes } = question ?? {};
  if (!part || !dialog.message().includes(part)) faults.push(`a dialog: ${dialog.message()}`);
  question = null;
  await (yes ? dialog.accept() : dialog.dismiss());
});
// What is asked for in vain on purpose: at first with a wrong token.
let inVain = '403';
page.on('console', (message) => { if (message.type() === 'error' && !message.text().includes(inVain)) faults.push(message.text()); });
// What stands in the way of requests to the API, by the part of the address that begins with these words;
// `held` are let go by `release`.
let hindered = {};
let held = [];
let asked = [];
const release = () => { for (const request of held.splice(0)) request.continue(); };
const HINDRANCES = {
  hold: (request) => held.push(request),
  gone: (request) => request.abort('connectionrefused'),
};
await page.setRequestInterception(true);
page.on('request', (request) => {
  const url = request.url();
  if (!url.startsWith(`${ADMIN}/`) && !url.startsWith('data:')) faults.push(`loaded ${url}`);
  const path = url.slice(ADMIN.length + 1);
  asked.push(`${request.method()} ${path}`);
  const way = Object.keys(hindered).find((part) => path.startsWith(part));
  const hindrance = hindered[way];
  if (typeof hindrance === 'function') request.respond({ contentType: 'application/json', body: JSON.stringify(hindrance(path)) });
  else (HINDRANCES[hindrance] ?? (() => request.continue()))(request);
});
await page.setViewport({ width: 1280, height: 860 });
await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'light' }]);

const text = () => page.$eval('body', (body) => body.innerText);
const shows = (part) => page.waitForFunction((wanted) => document.body.innerText.includes(wanted), { timeout: 10_000 }, part)
  .catch(async () => assert.fail(`the page doesn't show “${part}”:\n${await text()}`));
const picture = (name) => page.screenshot({ path: `${PICTURES}/${name}.png`, fullPage: true });
const rows = () => page.$$eval('tbody tr', (all) => all.length);
const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.innerText);
const until = (what, ...args) => page.waitForFunction(what, { timeout: 10_000 }, ...args);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const click = async (selector) => { await page.waitForSelector(selector, { visible: true, timeout: 10_000 }); await page.click(selector); };

async function logIn() {
  const reply = await page.goto(`${ADMIN}/`, { waitUntil: 'load' });
  assert.match(reply.headers()['content-security-policy'], /default-src 'none'/);
  // Not one that could be sent at all.
  await page.type('#token', '令牌');
  await click('#enter');
  await shows('other characters');
  await page.$eval('#token', (input) => { input.value = ''; });
  await page.type('#token', 'not-the-token');
  await click('#enter');
  await shows('isn’t the admin token');
  await picture('login');
  await page.$eval('#token', (input) => { input.value = ''; });
  await page.type('#token', TOKEN.trim());
  await click('#enter');
  await shows('ready');
}

async function overview() {
  await shows('Merchants: authorised');
  const tile = (name) => page.evaluate((wanted) => [...document.querySelectorAll('.tile')].find((tile) => tile.innerText.startsWith(wanted))?.querySelector('b').innerText, name);
  assert.equal(await tile('Merchants: authorised'), '2');
  // The payment, and that two merchants were imported.
  assert.equal(await tile('Owed'), '3');
  assert.equal(await tile('Refused, kept'), '1');
  for (let n = 0; n < 5; n += 1) { await traffic(); await pause(1500); }
  await page.waitForFunction(() => /L/.test(document.querySelector('#calls path').getAttribute('d')) && /L/.test(document.querySelector('#latency path').getAttribute('d')), { timeout: 15_000 });
  await picture('overview');
}

async function merchants() {
  await click('#tab-merchants');
  await shows('2021000000001002');
  await page.type('#selector', '2088000000001001');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1);
  await shows('2021000000001001');
  await shows('2021000000000001');
  await picture('merchants');
}

async function inbox() {
  await click('#tab-inbox');
  await page.waitForSelector('#state');
  await page.focus('#state');
  await page.select('#state', 'pending');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 3);
  assert.equal(await focused(), 'state', 'the filter keeps the focus');
  // By keyboard.
  await page.evaluate(() => [...document.querySelectorAll('tbody tr')].find((row) => row.innerText.includes('trade_status_sync')).querySelector('button').focus());
  await page.keyboard.press('Space');
  await shows('HTTP status (500)');
  await until(() => document.activeElement.id === 'back');
  // Where it was tried, and what Alipay sent.
  await shows(`http://127.0.0.1:${BACKEND_PORT}/events`);
  await shows('What Alipay sent');
  // What somebody else wrote is text.
  await shows(EVIL);
  await picture('entry');
  taking = true;
  await click('#replay');
  await shows('It is owed again.');
  assert.equal(await page.$eval('#complaint', (one) => one.hidden), true, 'what went well is no complaint');
  await page.waitForFunction(async () => {
    document.querySelector('#back').click();
    await new Promise((done) => setTimeout(done, 300));
    document.querySelector('#tab-inbox').click();
    await new Promise((done) => setTimeout(done, 300));
    return document.body.innerText.includes('delivered');
  }, { timeout: 15_000, polling: 500 });
  await picture('inbox');
}

/** What the backend has taken goes again only after a question, and once however often it is pressed. */
async function deliveredAgain() {
  await page.select('#state', 'delivered');
  await until(() => [...document.querySelectorAll('tbody .pill')].map((one) => one.innerText).includes('delivered'));
  await click('tbody tr button');
  await page.waitForSelector('#replay');
  asked = [];
  const posts = () => asked.filter((one) => one.startsWith('POST') && one.endsWith('/replay')).length;
  const decline = async () => {
    question = { part: 'taken this already', yes: false };
    await click('#replay');
    for (let n = 0; question && n < 100; n += 1) await pause(50);
    await pause(200);
    assert.deepEqual([question, posts()], [null, 0]);
  };
  await decline();
  // A page that was opened before the backend took it.
  await click('#back');
  hindered = { 'api/inbox/': (path) => ({ id: path.slice('api/inbox/'.length), type: 'made', state: 'dead', history: [], params: {} }) };
  await click('tbody tr button');
  await until(() => document.querySelector('.pill:not(#ready)')?.innerText === 'dead');
  hindered = {};
  await decline();
  question = { part: 'taken this already', yes: true };
  hindered = { 'api/inbox/': 'hold' };
  await click('#replay');
  await page.$eval('#replay', (button) => { button.click(); button.click(); });
  await until(() => document.querySelector('#replay').disabled);
  hindered = {};
  release();
  await shows('It is owed again.');
  assert.equal(posts(), 1);
}

/** A list of many: each page is read once, and the keyboard goes on at the first new row. */
async function more() {
  const item = (n) => ({ id: `made-${n}`, notify_id: null, app_id: '2021000000000001', type: 'made', state: 'dead', attempts: 1, received_at: 1_700_000_000_000 + n });
  const items = (from) => Array.from({ length: 50 }, (_, n) => item(from + n));
  hindered = { 'api/inbox?': (path) => (path.endsWith('after=') ? { items: items(0), next: 'made-49' } : { items: items(50), next: null }) };
  await click('#tab-inbox');
  await until(() => document.querySelectorAll('tbody tr').length === 50);
  asked = [];
  await page.$eval('.more', (button) => { button.focus(); button.click(); button.click(); });
  await until(() => document.querySelectorAll('tbody tr').length > 50);
  await pause(200);
  assert.equal(await rows(), 100);
  assert.equal(asked.filter((one) => one.includes('after=made-49')).length, 1);
  assert.match(asked.find((one) => one.includes('after=made-49')), /order=desc/);
  assert.equal(await page.evaluate(() => [...document.querySelectorAll('tbody tr')].indexOf(document.activeElement.closest('tr'))), 50);
  hindered = {};
}

/** An answer to what is no longer asked changes nothing, and a list that can't be had leaves no other in its place. */
async function crossing() {
  hindered = { 'api/merchants': 'hold' };
  await click('#tab-merchants');
  await until(() => document.querySelector('#selector'));
  assert.equal(await rows(), 0, 'nothing of the tab before');
  await click('#tab-refused');
  await page.waitForSelector('#reverify-all');
  await until(() => document.querySelectorAll('tbody tr').length === 1);
  hindered = {};
  release();
  await pause(300);
  assert.equal(await page.$('#selector'), null);
  assert.deepEqual(await page.$$eval('#tabs [aria-current=page]', (all) => all.map((one) => one.id)), ['tab-refused']);
  // One filter after the other.
  await click('#tab-inbox');
  await until(() => document.querySelectorAll('tbody tr').length === 3);
  hindered = { 'api/inbox?state=dead': 'hold' };
  await page.select('#state', 'dead');
  await until(() => document.querySelectorAll('tbody tr').length === 0);
  await page.select('#state', '');
  await until(() => document.querySelectorAll('tbody tr').length === 3);
  hindered = {};
  release();
  await pause(300);
  assert.doesNotMatch(await text(), /Nothing\./);
  await click('#tab-refused');
  // All verified again while something else is looked at.
  hindered = { 'api/inbox/reverify': 'hold' };
  await click('#reverify-all');
  await click('#tab-merchants');
  await until(() => document.querySelectorAll('tbody tr').length === 2);
  hindered = {};
  release();
  await shows('1 still refused');
  assert.notEqual(await page.$('#selector'), null, 'it doesn’t lead back');
  inVain = 'ERR_CONNECTION_REFUSED';
  hindered = { 'api/inbox': 'gone' };
  await click('#tab-inbox');
  await shows('The sidecar doesn’t answer.');
  assert.equal(await rows(), 0);
  hindered = {};
  inVain = '403';
}

/** A sidecar that is gone shows on each page, without an alert at each sample. */
async function gone() {
  const pill = () => page.$eval('#ready', (one) => `${one.className}: ${one.innerText}`);
  await click('#tab-overview');
  await shows('Merchants: authorised');
  inVain = 'ERR_CONNECTION_REFUSED';
  hindered = { readyz: 'gone', metrics: 'gone' };
  await until(() => document.querySelector('#ready').classList.contains('bad'));
  assert.equal(await pill(), 'pill bad: The sidecar doesn’t answer.');
  assert.equal(await page.$eval('#complaint', (one) => one.hidden), true);
  assert.equal(await page.$('.tile'), null, 'what was counted before isn’t shown as of now');
  await picture('gone');
  hindered = {};
  await until(() => document.querySelector('#ready').classList.contains('good'));
  await shows('Merchants: authorised');
  inVain = '403';
  const curves = await page.$$eval('#calls path', (all) => all.map((one) => one.getAttribute('d')));
  assert.doesNotMatch(curves.join(), /NaN|Infinity/);
}

/** Whoever leaves leaves nothing behind, neither what was shown nor what is still to come. */
async function left() {
  const nothing = async () => assert.deepEqual(await page.evaluate(() => [document.querySelector('#view').innerHTML, document.querySelector('#ready').innerText]), ['', '']);
  await click('#tab-merchants');
  await until(() => document.querySelectorAll('tbody tr').length === 2);
  hindered = { api: 'hold', readyz: 'hold' };
  await click('#tab-inbox');
  await click('#leave');
  await nothing();
  hindered = {};
  release();
  await pause(300);
  await nothing();
  assert.equal(await focused(), 'token');
  await page.keyboard.type(TOKEN.trim());
  await page.keyboard.press('Enter');
  await page.waitForSelector('#state');
  await until(() => document.querySelectorAll('tbody tr').length > 0);
  assert.equal(await focused(), 'tab-inbox');
  assert.doesNotMatch(await text(), /2021000000001001/);
}

async function refused() {
  await click('#tab-refused');
  await page.waitForSelector('tbody tr');
  await click('tbody tr');
  await page.waitForSelector('#diagnosis');
  await shows('its signature doesn’t hold (forged)');
  await shows('[signature-length]');
  await shows(EVIL);
  // Nobody knows who wrote it, and one reason is enough.
  await shows('What was received');
  const said = await text();
  assert.doesNotMatch(said, /What Alipay sent|doesn't fit under any/);
  assert.match(said, /another size made it\n/);
  await picture('refused');
  await click('#reverify');
  await shows('1 still refused');
}

/** What the Chinese page says of a refused notification and of an attempt is Chinese. */
async function chineseReasons() {
  await click('#language');
  await click('#tab-refused');
  await page.waitForSelector('tbody tr');
  await click('tbody tr');
  await page.waitForSelector('#diagnosis');
  await shows('签名不成立 (forged)');
  await shows('[signature-length] 签名的长度与密钥不符');
  await shows('收到的内容');
  await shows('就绪');
  const [left, right] = await page.evaluate(() => [WORDS.en, WORDS.zh].map((words) => JSON.stringify({ ...words, looks: {}, problems: {} }, (key, value) => (typeof value === 'object' ? value : ''))));
  assert.equal(left, right, 'each word is there in both languages');
  await picture('refused-zh');
  await click('#tab-inbox');
  await page.waitForSelector('tbody tr');
  await page.evaluate(() => [...document.querySelectorAll('tbody tr')].find((row) => row.innerText.includes('trade_status_sync')).click());
  await shows('HTTP 状态码 (500)');
  await picture('entry-zh');
  await click('#tab-merchants');
  await page.waitForSelector('#selector');
  inVain = '400';
  await page.type('#selector', 'no:body');
  await page.keyboard.press('Enter');
  await shows('这样的取值不行。 原文：');
  inVain = '403';
  await click('#language');
}

/** Alipay is asked about one app at a time, and what comes of it is said beside that app, or nowhere. */
async function looks() {
  const app = (n) => ({ app_id: `202100000009900${n}`, environment: 'sandbox', sign_type: 'RSA2', alipay_public_key_fingerprints: [], origin: 'config' });
  hindered = { 'api/apps/': 'hold', 'api/apps': () => ({ items: Array.from({ length: 7 }, (_, n) => app(n)) }) };
  await click('#tab-apps');
  await until(() => document.querySelectorAll('.look').length === 7);
  const lookAtAll = () => page.$$eval('.look', (all) => all.forEach((one) => one.click()));
  const complaint = () => page.$eval('#complaint', (one) => !one.hidden && one.innerText);
  const count = () => asked.filter((one) => one.endsWith('/check')).length;
  asked = [];
  await lookAtAll();
  // Samples are taken meanwhile.
  for (let n = 0; !asked.includes('GET metrics') && n < 100; n += 1) await pause(50);
  assert.deepEqual([asked.includes('GET metrics'), count()], [true, 1]);
  inVain = '400';
  hindered['api/apps/'] = 'pass';
  release();
  await until(() => [...document.querySelectorAll('.look + div')].filter((one) => one.querySelector('.bad')?.innerText).length === 7);
  assert.deepEqual([count(), await complaint()], [7, false]);
  // Nobody is there any more: what waited isn't asked, and no other page complains.
  asked = [];
  hindered['api/apps/'] = 'hold';
  await lookAtAll();
  await pause(200);
  await click('#tab-merchants');
  await until(() => document.querySelector('#selector'));
  hindered = {};
  release();
  await pause(300);
  assert.deepEqual([count(), await complaint()], [1, false]);
  inVain = '403';
}

async function chinese() {
  await click('#tab-apps');
  await click('.look');
  await shows('v2: Alipay takes its key.');
  await shows('v3: Alipay answers.');
  await picture('apps');
  await click('#language');
  await shows('支付宝公钥');
  assert.equal(await page.$eval('html', (html) => html.lang), 'zh-CN');
  await click('#tab-overview');
  await shows('待投递');
  await page.setViewport({ width: 420, height: 860 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth + 1);
  assert.equal(wide, false, 'it fits a phone');
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
  await picture('overview-zh');
  await click('#leave');
  await page.waitForSelector('#login', { visible: true });
  assert.equal(await page.evaluate(() => sessionStorage.getItem('token')), null);
}

try {
  await prepare();
  for (const step of [logIn, overview, merchants, inbox, deliveredAgain, more, refused, crossing, gone, left, looks, chineseReasons, chinese]) {
    await step();
    console.log(`ok: ${step.name}`);
  }
  assert.deepEqual(faults, []);
} catch (error) {
  await picture('failed').catch(() => {});
  console.error(error, faults);
  process.exitCode = 1;
} finally {
  await browser.close();
  process.exit();
}
