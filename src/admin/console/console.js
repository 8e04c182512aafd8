'use strict';
// The console: what the API tells, for eyes. Whatever comes from the API is put into the page as text,
// never as markup: much of it was written by strangers. What the page says itself stands in words.js.

const byId = (id) => document.getElementById(id);
const remembered = (key) => { try { return sessionStorage.getItem(key); } catch { return null; } };
const remember = (key, value) => { try { value === null ? sessionStorage.removeItem(key) : sessionStorage.setItem(key, value); } catch { /* then it lives as long as the page */ } };

let language = remembered('language') ?? (navigator.language.startsWith('zh') ? 'zh' : 'en');
let token = remembered('token');
let tab = 'overview';
let words = WORDS[language];
let samples = [];
let timer;

/** An element with attributes, listeners (`on…`) and children; text stays text. */
function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

class Problem extends Error {}

/** What the API refuses: in Chinese by its code, with what it says itself behind, where names and numbers stand. */
function told(problem, status) {
  const known = words.problems[problem?.code];
  return known ? `${known} ${words.original}${problem.detail}` : problem?.detail ?? `HTTP ${status}`;
}

async function ask(path, method = 'GET', body) {
  let reply;
  try {
    reply = await fetch(path, { method, body, cache: 'no-store', headers: { Authorization: `Bearer ${token}` } });
  } catch {
    throw new Problem(words.gone);
  }
  // To a browser without the token the API says that it isn't for browsers.
  if (reply.status === 401 || reply.headers.get('alipay-sidecar-error') === 'browser-refused') {
    leave();
    throw new Problem(words.wrongToken);
  }
  const text = await reply.text();
  // /readyz says no with 503, and still tells why.
  if (path === 'metrics') return text;
  const value = text ? JSON.parse(text) : null;
  if (!reply.ok && path !== 'readyz') throw new Problem(told(value, reply.status));
  return value;
}

function complain(message) {
  byId('complaint').textContent = message ?? '';
  byId('complaint').hidden = !message;
}

/** Runs what a button does, and says what went wrong. */
async function attempt(work) {
  complain();
  try {
    await work();
  } catch (error) {
    complain(error.message);
  }
}

const time = (ms) => (ms ? new Date(ms).toLocaleString(language === 'zh' ? 'zh-CN' : 'en-GB') : '–');
const dash = (value) => (value === null || value === undefined || value === '' ? '–' : value);

const TONES = { authorized: 'good', delivered: 'good', good: 'good', suspect: 'warn', pending: 'warn', revoked: 'bad', dead: 'bad', refused: 'bad', failed: 'bad' };
const STATES = { pending: 'statePending', dead: 'stateDead', delivered: 'delivered', ignored: 'ignored', refused: 'refused', authorized: 'authorized', revoked: 'revoked', suspect: 'suspect' };
const pill = (word) => el('span', { class: `pill ${TONES[word] ?? ''}` }, words[STATES[word]] ?? word);

function table(heads, rows, open) {
  if (rows.length === 0) return el('p', { class: 'faint' }, words.none);
  const row = ({ cells, key }) => {
    const go = open && (() => attempt(() => open(key)));
    const attributes = go ? { class: 'open', tabindex: 0, onclick: go, onkeydown: (e) => e.key === 'Enter' && go() } : {};
    return el('tr', attributes, cells.map((cell) => el('td', {}, cell)));
  };
  return el('div', { class: 'scroll' }, el('table', {},
    el('thead', {}, el('tr', {}, heads.map((head) => el('th', { scope: 'col' }, head)))),
    el('tbody', {}, rows.map(row))));
}

function show(...children) {
  byId('view').replaceChildren(...children.flat().filter(Boolean));
}

/** A list that is read a page at a time. */
async function pages(path, heads, cells, open, bar) {
  const rows = [];
  const query = path.includes('?') ? '&' : '?';
  const load = async (after) => {
    const page = await ask(path + query + (after ? `after=${encodeURIComponent(after)}&` : '') + 'limit=50');
    rows.push(...page.items.map((item) => ({ cells: cells(item), key: item })));
    const more = page.next && el('p', {}, el('button', { onclick: () => attempt(() => load(page.next)) }, words.more));
    show(bar, table(heads, rows, open), more);
  };
  await load();
}

// Overview

/** The series of one metric: labels and value. */
function series(metrics, name) {
  const found = [];
  for (const line of metrics.split('\n')) {
    if (!line.startsWith(name)) continue;
    const match = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match?.[1] !== name) continue;
    const labels = Object.fromEntries([...(match[2] ?? '').matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map((label) => [label[1], label[2]]));
    found.push({ labels, value: Number(match[3]) });
  }
  return found;
}

const sum = (list) => list.reduce((total, one) => total + one.value, 0);

/** What the plots are drawn from, of one scrape. */
function sampleOf(metrics) {
  const requests = series(metrics, 'alipay_sidecar_requests_total');
  const good = requests.filter(({ labels }) => labels.outcome === 'ok');
  const buckets = new Map();
  for (const { labels, value } of series(metrics, 'alipay_sidecar_request_duration_seconds_bucket')) {
    if (labels.phase === 'total') buckets.set(labels.le, (buckets.get(labels.le) ?? 0) + value);
  }
  return { at: Date.now(), ok: sum(good), failed: sum(requests) - sum(good), buckets };
}

/** The quantile of what lies between two samples, in ms; `null`: nothing does. */
function quantile(before, after, q) {
  const counts = [...after.buckets].map(([le, count]) => [le === '+Inf' ? Infinity : Number(le), count - (before.buckets.get(le) ?? 0)]);
  counts.sort((a, b) => a[0] - b[0]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  let [lower, below] = [0, 0];
  for (const [upper, count] of counts) {
    if (count >= q * all) {
      if (upper === Infinity) return lower * 1000;
      const share = count === below ? 1 : (q * all - below) / (count - below);
      return (lower + (upper - lower) * share) * 1000;
    }
    [lower, below] = [upper, count];
  }
  return lower * 1000;
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Lines over time; each has a name, a tone and a value (or null) for each point. */
function plot(title, id, lines) {
  const [width, height, left, bottom] = [400, 140, 44, 18];
  const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
  const most = Math.max(1e-9, ...values) * 1.1;
  const count = Math.max(2, ...lines.map((line) => line.values.length));
  const x = (n) => left + (n / (count - 1)) * (width - left - 4);
  const y = (value) => 6 + (1 - value / most) * (height - bottom - 6);
  const label = (value) => value.toLocaleString('en', { maximumSignificantDigits: 2 });
  const parts = [0, 0.5, 1].flatMap((part) => {
    const text = svg('text', { x: left - 6, y: y(most * part) + 4, 'text-anchor': 'end', 'font-size': 11, fill: 'var(--faint)' });
    text.textContent = label(most * part);
    return [svg('line', { x1: left, x2: width, y1: y(most * part), y2: y(most * part), stroke: 'var(--line)' }), text];
  });
  for (const { values: points, tone } of lines) {
    let path = '';
    let pen = 'M';
    points.forEach((value, n) => {
      if (value === null) { pen = 'M'; return; }
      path += `${pen}${x(n).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = 'L';
    });
    parts.push(svg('path', { d: path || 'M0 0', fill: 'none', stroke: `var(--${tone})`, 'stroke-width': 1.8, 'stroke-linejoin': 'round', 'stroke-linecap': 'round' }));
  }
  const last = (line) => line.values.findLast((value) => value !== null);
  const legend = lines.flatMap((line) => [el('span', { class: line.tone }, '● '), `${line.name} ${last(line) === undefined ? '–' : label(last(line))}   `]);
  return el('div', { class: 'card', id }, el('div', {}, el('b', {}, title), '  ', el('span', { class: 'faint' }, legend)),
    svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': title }, ...parts));
}

function plots() {
  const between = samples.slice(1).map((after, n) => [samples[n], after]);
  const rate = (name) => between.map(([before, after]) => Math.max(0, after[name] - before[name]) / ((after.at - before.at) / 1000));
  // A window of five samples: a single one often holds no call.
  const latency = (q) => samples.slice(1).map((after, n) => quantile(samples[Math.max(0, n - 4)], after, q));
  return el('div', { class: 'plots' },
    plot(words.callsPlot, 'calls', [{ name: words.ok, tone: 'good', values: rate('ok') }, { name: words.failed, tone: 'bad', values: rate('failed') }]),
    plot(words.latencyPlot, 'latency', [{ name: words.p50, tone: 'blue', values: latency(0.5) }, { name: words.p95, tone: 'warn', values: latency(0.95) }]));
}

function tile(name, value, tone = '') {
  return el('div', { class: 'tile' }, el('span', { class: 'faint' }, name), el('b', { class: tone }, value));
}

function tiles(metrics) {
  const one = (name) => sum(series(metrics, `alipay_sidecar_${name}`));
  const merchants = Object.fromEntries(series(metrics, 'alipay_sidecar_merchants').map(({ labels, value }) => [labels.state, value]));
  const ends = series(metrics, 'alipay_sidecar_certificate_expiry_timestamp_seconds').filter(({ value }) => value > 0);
  const certificates = ends.map(({ labels, value }) => {
    const days = Math.floor((value * 1000 - Date.now()) / 86_400_000);
    return tile(`${words.expiry}: ${labels.kind}`, words.days(days), days < 14 ? 'bad' : days < 30 ? 'warn' : '');
  });
  const [owed, dead, kept] = [one('inbox_pending'), one('inbox_dead'), one('inbox_refused')];
  return el('div', { class: 'tiles' },
    ['authorized', 'suspect', 'revoked'].map((state) => tile(`${words.merchants}: ${words[state]}`, merchants[state] ?? 0, state !== 'authorized' && merchants[state] ? TONES[state] : '')),
    tile(words.pending, owed), tile(words.dead, dead, dead ? 'bad' : ''), tile(words.kept, kept, kept ? 'warn' : ''),
    tile(words.oldest, owed ? `${Math.round(one('inbox_oldest_seconds'))} ${words.seconds}` : '–'),
    tile(words.inFlight, one('in_flight_requests')),
    certificates.length ? certificates : tile(words.expiry, words.noCertificate));
}

async function sample() {
  const [readiness, metrics] = [await ask('readyz'), await ask('metrics')];
  const why = readiness.draining ? words.draining : !readiness.store_writable ? words.storeDown : !readiness.app_usable ? words.noApp : words.notReady;
  byId('ready').textContent = readiness.ready ? words.ready : why;
  byId('ready').className = `pill ${readiness.ready ? 'good' : 'bad'}`;
  samples.push(sampleOf(metrics));
  samples = samples.slice(-300);
  return metrics;
}

async function overview() {
  const metrics = await sample();
  if (tab === 'overview') show(tiles(metrics), plots(), el('p', { class: 'faint' }, words.sampling));
}

// Merchants, apps

async function merchants(selector) {
  const found = el('input', { id: 'selector', placeholder: words.findHint, 'aria-label': words.findHint, value: selector ?? '' });
  const bar = el('form', { class: 'bar', onsubmit: (e) => { e.preventDefault(); attempt(() => merchants(found.value.trim())); } }, found, el('button', {}, words.find));
  const path = selector ? `api/merchants?selector=${encodeURIComponent(selector)}` : 'api/merchants';
  const cells = (m) => [[m.user_id ?? '–', el('br'), el('span', { class: 'faint' }, m.auth_app_id)], dash(m.alias), pill(m.status), m.source, time(m.auth_time), m.token_fingerprint, time(m.updated_at)];
  await pages(path, [words.merchant, words.alias, words.status, words.source, words.since, words.token, words.changed], cells, undefined, bar);
}

async function apps() {
  const cells = (app) => {
    const said = el('span', {});
    const look = async () => {
      const found = await ask(`api/apps/${encodeURIComponent(app.app_id)}/check`, 'POST');
      const clock = found.clock_ahead_s === null ? '' : ` (${words.ahead(found.clock_ahead_s)}, ${found.took_ms} ms)`;
      said.className = found.verdict === 'good' ? 'good' : 'bad';
      const why = words.looks[found.error];
      said.textContent = found.verdict === 'good' ? words.good + clock : `${found.error}: ${why ? `${why} ${words.original}` : ''}${found.detail}`;
    };
    return [app.app_id, app.environment, app.sign_type, dash(app.key_bits), app.alipay_public_key_fingerprints.map((one) => one.slice(0, 12)).join(', '), app.has_encrypt_key ? '✓' : '–', app.origin,
      [el('button', { class: 'look', onclick: () => attempt(look) }, words.look), ' ', said]];
  };
  // All of them stand on one page.
  const page = await ask('api/apps');
  show(table(['app_id', words.environment, words.signType, words.bits, words.fingerprints, words.encrypted, words.origin, ''], page.items.map((app) => ({ cells: cells(app), key: app }))));
}

// The inbox

const ITEM_HEADS = () => [words.received, words.type, 'app_id', words.state, words.attempts, 'id'];
const itemCells = (item) => [time(item.received_at), dash(item.type), dash(item.app_id), pill(item.state), item.attempts, el('span', { class: 'faint' }, item.id)];

async function inbox(state = '') {
  const options = ['', 'pending', 'delivered', 'dead', 'ignored'].map((one) => el('option', { value: one, selected: one === state }, one ? words[STATES[one]] : words.all));
  const bar = el('div', { class: 'bar' }, el('select', { id: 'state', 'aria-label': words.state, onchange: (e) => attempt(() => inbox(e.target.value)) }, options));
  await pages(`api/inbox${state ? `?state=${state}` : ''}`, ITEM_HEADS(), itemCells, (item) => entry(item, () => inbox(state)), bar);
}

async function refused() {
  const again = async () => {
    const report = await ask('api/inbox/reverify', 'POST');
    await refused();
    complain(words.reverified(report));
  };
  const bar = el('div', { class: 'bar' }, el('button', { id: 'reverify-all', onclick: () => attempt(again) }, words.reverifyAll));
  await pages('api/inbox?state=refused', ITEM_HEADS(), itemCells, (item) => entry(item, refused), bar);
}

const facts = (rows) => el('div', { class: 'scroll' }, el('table', {}, rows.filter(Boolean).map(([name, value]) => el('tr', {}, el('th', { scope: 'row' }, name), el('td', {}, value)))));
const json = (value) => el('pre', {}, JSON.stringify(value, null, 2));

/** One cause, in Chinese with what the API says of it below: names and numbers stand there. */
function cause({ cause: kind, text }) {
  const known = language === 'zh' ? CAUSES[kind] : undefined;
  return el('li', {}, `[${kind}] ${known ?? text}`, known ? el('div', { class: 'faint' }, words.original + text) : null);
}

/** Why the signature doesn't hold, by the keys of now. */
function diagnosis({ verified, text, causes, remarks }) {
  const verdict = verified ? words.holds : causes.length > 0 ? words.holdsNot : text;
  return el('div', { class: 'card', id: 'diagnosis' }, verdict, el('ul', {}, [...causes, ...remarks].map(cause)));
}

/** Why it was refused. What the first look at a signature guessed gives way to the diagnosis. */
function reason({ refusal, explanation }) {
  const kind = `${words.kinds[refusal.kind] ?? refusal.kind} (${refusal.kind})`;
  return refusal.kind === 'forged' && explanation ? kind : `${kind}: ${refusal.reason}`;
}

/** Whether Alipay has signed what came. */
function isAlipays({ refusal, explanation }) {
  return !refusal || explanation?.verified || ['no-notification', 'undecryptable'].includes(refusal.kind);
}

/** What became of one attempt. */
function answer({ error, status, reason: why }) {
  const said = error === null ? words.taken : `${words.errors[error] ?? error}${status ? ` (${status})` : ''}`;
  const more = why ? el('div', { class: 'faint' }, words.original + why) : null;
  return el('span', { class: error === null ? 'good' : 'bad', title: error ?? '' }, said, more);
}

async function entry(item, back) {
  const isRefused = item.state === 'refused';
  const view = await ask(`api/inbox/${encodeURIComponent(item.id)}${isRefused ? '?explain=true' : ''}`);
  const reload = (message) => attempt(async () => { await entry(item, back); complain(message); });
  const replay = async () => { await ask(`api/inbox/${encodeURIComponent(item.id)}/replay`, 'POST'); reload(words.replayed); };
  const reverify = async () => {
    const report = await ask(`api/inbox/${encodeURIComponent(item.id)}/reverify`, 'POST');
    await back();
    complain(words.reverified(report));
  };
  show(
    el('div', { class: 'bar' }, el('button', { id: 'back', onclick: () => attempt(back) }, `← ${words.back}`),
      isRefused ? el('button', { id: 'reverify', onclick: () => attempt(reverify) }, words.reverify)
        : el('button', { id: 'replay', onclick: () => attempt(replay) }, words.replay)),
    facts([['id', view.id], ['notify_id', dash(view.notify_id)], [words.type, dash(view.type)], [words.state, pill(view.state)], ['app_id', dash(view.app_id)],
      [words.merchant, `${dash(view.user_id)} / ${dash(view.auth_app_id)}`], [words.received, time(view.received_at)],
      view.next_attempt_at && [words.next, time(view.next_attempt_at)],
      view.refusal && [words.reason, reason(view)],
      view.refusal && [words.peer, view.refusal.peer], view.refusal && [words.times, view.refusal.times]]),
    view.explanation && [el('h2', {}, words.diagnosis), diagnosis(view.explanation)],
    !isRefused && [el('h2', {}, words.history), el('div', { id: 'history' }, table([words.at, words.took, words.answer, words.via, words.to],
      view.history.map((one) => ({ cells: [time(one.at), `${one.duration_ms} ms`, answer(one), words[one.via] ?? one.via, dash(one.to)] }))))],
    view.event && [el('h2', {}, words.event), json(view.event)],
    Object.keys(view.params).length > 0 && [el('h2', {}, isAlipays(view) ? words.params : words.receivedParams), json(view.params)]);
}

// The frame

const TABS = { overview, merchants: () => merchants(), inbox: () => inbox(), refused, apps };

function go(name) {
  tab = name;
  for (const button of byId('tabs').children) button.toggleAttribute('aria-current', button.id === `tab-${name}`);
  return attempt(TABS[name]);
}

function label() {
  words = WORDS[language];
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  for (const [id, word] of [['language', 'other'], ['leave', 'leave'], ['ask', 'ask'], ['where', 'where'], ['enter', 'enter']]) byId(id).textContent = words[word];
  byId('tabs').replaceChildren(...Object.keys(TABS).map((name) => el('button', { id: `tab-${name}`, onclick: () => go(name) }, words[name])));
}

function leave() {
  clearInterval(timer);
  token = null;
  remember('token', null);
  samples = [];
  byId('ready').textContent = '';
  for (const [id, hidden] of [['login', false], ['view', true], ['tabs', true], ['leave', true]]) byId(id).hidden = hidden;
}

async function enter() {
  // Asked first: a wrong one throws, and the login stays.
  await ask('api/store');
  remember('token', token);
  for (const [id, hidden] of [['login', true], ['view', false], ['tabs', false], ['leave', false]]) byId(id).hidden = hidden;
  byId('token').value = '';
  clearInterval(timer);
  // Samples go on whatever is shown, so that the plots have no gaps.
  timer = setInterval(() => (tab === 'overview' ? attempt(overview) : sample().catch(() => {})), 2000);
  await go(tab);
  if (tab !== 'overview') await sample();
}

byId('login').addEventListener('submit', (event) => {
  event.preventDefault();
  token = byId('token').value.trim();
  attempt(enter);
});
byId('leave').addEventListener('click', () => { complain(); leave(); });
byId('language').addEventListener('click', () => {
  language = language === 'zh' ? 'en' : 'zh';
  remember('language', language);
  label();
  if (!token) return;
  go(tab);
  sample().catch(() => {});
});
label();
if (token) attempt(enter);
