// A person at the console: logs in, looks at each page, delivers again, verifies again, changes the
// language. Fails where a page says something wrong, complains in the browser's log, or loads anything
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
page.on('dialog', (dialog) => { faults.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
// What is asked for in vain on purpose: at first with a wrong token.
let inVain = '403';
page.on('console', (message) => { if (message.type() === 'error' && !message.text().includes(inVain)) faults.push(message.text()); });
page.on('request', (request) => { if (!request.url().startsWith(`${ADMIN}/`) && !request.url().startsWith('data:')) faults.push(`loaded ${request.url()}`); });
await page.setViewport({ width: 1280, height: 860 });
await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'light' }]);

const text = () => page.$eval('body', (body) => body.innerText);
const shows = (part) => page.waitForFunction((wanted) => document.body.innerText.includes(wanted), { timeout: 10_000 }, part)
  .catch(async () => assert.fail(`the page doesn't show “${part}”:\n${await text()}`));
const picture = (name) => page.screenshot({ path: `${PICTURES}/${name}.png`, fullPage: true });
const click = async (selector) => { await page.waitForSelector(selector, { visible: true, timeout: 10_000 }); await page.click(selector); };

async function logIn() {
  const reply = await page.goto(`${ADMIN}/`, { waitUntil: 'load' });
  assert.match(reply.headers()['content-security-policy'], /default-src 'none'/);
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
  for (let n = 0; n < 5; n += 1) { await traffic(); await new Promise((done) => setTimeout(done, 1500)); }
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
  await picture('merchants');
}

async function inbox() {
  await click('#tab-inbox');
  await page.waitForSelector('#state');
  await page.select('#state', 'pending');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 3);
  await page.evaluate(() => [...document.querySelectorAll('tbody tr')].find((row) => row.innerText.includes('trade_status_sync')).click());
  await shows('HTTP status (500)');
  // Where it was tried, and what Alipay sent.
  await shows(`http://127.0.0.1:${BACKEND_PORT}/events`);
  await shows('What Alipay sent');
  // What somebody else wrote is text.
  await shows(EVIL);
  await picture('entry');
  taking = true;
  await click('#replay');
  await shows('It is owed again.');
  await page.waitForFunction(async () => {
    document.querySelector('#back').click();
    await new Promise((done) => setTimeout(done, 300));
    document.querySelector('#tab-inbox').click();
    await new Promise((done) => setTimeout(done, 300));
    return document.body.innerText.includes('delivered');
  }, { timeout: 15_000, polling: 500 });
  await picture('inbox');
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
  await page.waitForSelector('#state');
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

async function chinese() {
  await click('#tab-apps');
  await click('.look');
  await shows('Alipay takes its key.');
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
  for (const step of [logIn, overview, merchants, inbox, refused, chineseReasons, chinese]) {
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
