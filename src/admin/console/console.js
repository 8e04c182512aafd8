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
let sampling;
let timer;
// How many pages were begun: what was asked for an earlier one comes too late.
let turn = 0;

// How long an answer may take, ms. A busy store answers late, but answers; a sidecar that takes
// longer to say how it is hangs. What asks Alipay may wait for it, twice; what verifies many ends by itself.
const PATIENCE = 30_000;
const LOOK_PATIENCE = 60_000;
const SAMPLE_PATIENCE = 5_000;
const SAMPLE_EVERY = 2_000;

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

/** An answer that nobody waits for any more. */
class Late extends Error {}

/** What the API refuses: in Chinese by its code, with what it says itself behind, where names and numbers stand. */
function told(problem, status) {
  const known = words.problems[problem?.code];
  return known ? `${known} ${words.original}${problem.detail}` : problem?.detail ?? `HTTP ${status}`;
}

/** A number as it was written: one may have more digits than numbers here hold. Older browsers round it. */
function asWritten(key, value, context) {
  return typeof value === 'number' && context && String(value) !== context.source ? JSON.rawJSON(context.source) : value;
}

function parsed(text, status) {
  try {
    return text ? JSON.parse(text, asWritten) : null;
  } catch {
    throw new Problem(words.stranger(status));
  }
}

async function send(path, method, within) {
  // Older browsers wait as long as it takes.
  const signal = within ? AbortSignal.timeout?.(within) : undefined;
  const reply = await fetch(path, { method, signal, cache: 'no-store', headers: { Authorization: `Bearer ${token}` } });
  return { reply, text: await reply.text() };
}

/** Asks the API; `within` is how long that may take, ms, and 0: as long as it likes. */
async function ask(path, { method = 'GET', within = PATIENCE } = {}) {
  const by = token;
  const sent = await send(path, method, within).catch(() => null);
  if (by !== token) throw new Late();
  if (!sent) throw new Problem(words.gone);
  const { reply, text } = sent;
  // To a browser without the token the API says that it isn't for browsers.
  if (reply.status === 401 || reply.headers.get('alipay-sidecar-error') === 'browser-refused') {
    leave(byId('login').hidden ? words.tokenOver : words.wrongToken);
    throw new Late();
  }
  if (path === 'metrics' && reply.ok) return text;
  const value = parsed(text, reply.status);
  // /readyz says no with 503, and still tells why.
  if (!reply.ok && value?.ready !== false) throw new Problem(told(value, reply.status));
  return value;
}

/** Asks for what the page that is open is to show. */
async function read(path) {
  const mine = turn;
  const check = () => { if (mine !== turn) throw new Late(); };
  const found = await ask(path).catch((error) => { check(); throw error; });
  check();
  return found;
}

function complain(message = '') {
  byId('complaint').textContent = message;
  byId('complaint').hidden = !message;
}

/** Tells what was done. */
function note(message = '') {
  byId('notice').textContent = message;
}

/** Does what a control is for, once at a time, and says what went wrong. */
async function attempt(work, control) {
  if (control?.disabled) return;
  const hadFocus = control !== undefined && document.activeElement === control;
  complain();
  note();
  if (control) control.disabled = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Late)) complain(error.message);
  }
  if (control) control.disabled = false;
  if (hadFocus) refocus(control);
}

/** Who works by keyboard goes on where they were, or at the beginning of the page that came. */
function refocus(control) {
  if (document.activeElement !== document.body) return;
  const same = control.isConnected ? control : byId(control.id);
  (same ?? byId('view').querySelector('button, input, select'))?.focus();
}

const time = (ms) => (ms ? new Date(ms).toLocaleString(language === 'zh' ? 'zh-CN' : 'en-GB') : '–');
const dash = (value) => (value === null || value === undefined || value === '' ? '–' : value);
/** An id of Alipay's, which is compared as a whole. */
const whole = (value) => el('span', { class: 'whole' }, dash(value));

const TONES = { authorized: 'good', delivered: 'good', good: 'good', suspect: 'warn', pending: 'warn', revoked: 'bad', dead: 'bad', refused: 'bad', failed: 'bad' };
const STATES = { pending: 'statePending', dead: 'stateDead', delivered: 'delivered', ignored: 'ignored', refused: 'refused', authorized: 'authorized', revoked: 'revoked', suspect: 'suspect' };
const pill = (word) => el('span', { class: `pill ${TONES[word] ?? ''}` }, words[STATES[word]] ?? word);

/** A row of a table. What it opens, the mouse opens anywhere on it, and the keyboard by a button in its first cell. */
function row(cells, open) {
  if (!open) return el('tr', {}, cells.map((cell) => el('td', {}, cell)));
  const button = el('button', { class: 'link' }, cells[0]);
  return el('tr', { class: 'open', onclick: () => attempt(open, button) }, [button, ...cells.slice(1)].map((cell) => el('td', {}, cell)));
}

function table(heads, rows) {
  if (rows.length === 0) return el('p', { class: 'faint' }, words.none);
  return el('div', { class: 'scroll' }, el('table', {},
    el('thead', {}, el('tr', {}, heads.map((head) => el('th', { scope: 'col' }, head)))),
    el('tbody', {}, rows)));
}

/** Begins another page; what stands there is left until something is shown. */
function begin() {
  turn += 1;
}

function show(...children) {
  byId('view').replaceChildren(...children.flat().filter(Boolean));
}

/** Begins a list that is read a page at a time, in the place of what `list` holds. */
async function fill(list, path, query, { heads, cells, open }) {
  begin();
  list.replaceChildren();
  const next = (after) => read(`${path}?${new URLSearchParams({ ...query, limit: 50, after })}`);
  const rows = ({ items }) => items.map((item) => row(cells(item), open && (() => open(item))));
  let page = await next('');
  list.append(table(heads, rows(page)));
  const add = async () => {
    page = await next(page.next);
    const added = rows(page);
    list.querySelector('tbody').append(...added);
    more.hidden = !page.next;
    if (added.length > 0) focusOn(added[0]);
  };
  const more = el('button', { class: 'more', hidden: !page.next, onclick: () => attempt(add, more) }, words.more);
  list.append(el('p', {}, more));
}

function focusOn(added) {
  const button = added.querySelector('button');
  if (!button) added.tabIndex = -1;
  (button ?? added).focus();
}

// Overview

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

/** How the sidecar is, beside its name. A reader of the screen says it when it changes, not at each sample. */
function mark(text, tone = '') {
  if (byId('ready').textContent !== text) byId('ready').textContent = text;
  byId('ready').className = `pill ${tone}`;
}

/** Keeps a sample, unless it is too close to the last for a rate to be made of the two. */
function keep(one) {
  const since = one.at - (samples.at(-1)?.at ?? -Infinity);
  // The clock was set back.
  if (since < 0) samples = [];
  if (since < 0 || since >= SAMPLE_EVERY / 4) samples = [...samples, one].slice(-300);
}

async function take() {
  const within = SAMPLE_PATIENCE;
  try {
    const readiness = await ask('readyz', { within });
    const why = readiness.draining ? words.draining : !readiness.store_writable ? words.storeDown : !readiness.app_usable ? words.noApp : words.notReady;
    mark(readiness.ready ? words.ready : why, readiness.ready ? 'good' : 'bad');
    const metrics = await ask('metrics', { within });
    keep(sampleOf(metrics));
    return metrics;
  } catch (error) {
    if (!(error instanceof Late)) mark(error.message, 'bad');
    throw error;
  }
}

/** The sample that is under way, or a new one. */
function sample() {
  sampling ??= take().finally(() => { sampling = undefined; });
  return sampling;
}

/** A sample, whatever is shown, so that the plots have no gaps. What was counted before a failure isn't shown as of now. */
async function tick() {
  let now;
  try {
    now = tiles(await sample());
  } catch (error) {
    if (error instanceof Late) return;
    now = el('p', { class: 'bad' }, error.message);
  }
  if (tab === 'overview') show(now, plots(), el('p', { class: 'faint' }, words.sampling));
}

async function overview() {
  begin();
  await tick();
}

// Merchants, apps

function merchants() {
  const list = el('div');
  const heads = [words.merchant, 'app_id', words.alias, words.status, words.source, words.since, words.token, words.changed];
  const cells = (m) => [[whole(m.user_id), el('br'), el('span', { class: 'whole faint' }, m.auth_app_id)], whole(m.app_id), dash(m.alias), pill(m.status), m.source, time(m.auth_time), m.token_fingerprint, time(m.updated_at)];
  const found = el('input', { id: 'selector', placeholder: words.findHint, 'aria-label': words.findHint });
  const load = () => {
    const selector = found.value.trim();
    return fill(list, 'api/merchants', selector ? { selector } : {}, { heads, cells });
  };
  const find = (event) => { event.preventDefault(); attempt(load); };
  show(el('form', { class: 'bar', onsubmit: find }, found, el('button', {}, words.find)), list);
  return load();
}

/** What Alipay says of an app, in one of its two dialects. */
function verdict(dialect, { verdict: word, error, detail }, good) {
  if (word === 'good') return el('div', { class: 'good' }, `${dialect}: ${good}`);
  // v3 leaves the prefix away.
  const why = words.looks[error] ?? words.looks[`isv.${error}`];
  return el('div', { class: 'bad' }, `${dialect}: ${error}: ${why ? `${why} ${words.original}` : ''}${detail}`);
}

function verdicts(found) {
  const clock = found.clock_ahead_s === null ? '' : `${words.ahead(found.clock_ahead_s)}, `;
  return [verdict('v2', found, `${words.good} (${clock}${found.took_ms} ms)`),
    verdict('v3', found.v3, `${words.goodV3} (${found.v3.took_ms} ms)`)];
}

// One at a time: a browser makes few connections, and while Alipay is slow none would be left for the samples.
let looked = Promise.resolve();

/** Asks Alipay about an app when its turn has come, and says in `said` what came of it, as long as that is shown. */
function look(app, said) {
  const one = async () => {
    if (!said.isConnected) return;
    try {
      said.replaceChildren(...verdicts(await ask(`api/apps/${encodeURIComponent(app.app_id)}/check`, { method: 'POST', within: LOOK_PATIENCE })));
    } catch (error) {
      if (!(error instanceof Late)) said.replaceChildren(el('div', { class: 'bad' }, error.message));
    }
  };
  said.replaceChildren();
  looked = looked.then(one);
  return looked;
}

async function apps() {
  begin();
  const cells = (app) => {
    const said = el('div', { role: 'status' });
    const button = el('button', { class: 'look', onclick: () => attempt(() => look(app, said), button) }, words.look);
    return [whole(app.app_id), app.environment, app.sign_type, dash(app.key_bits), app.alipay_public_key_fingerprints.map((one) => one.slice(0, 12)).join(', '), app.has_encrypt_key ? '✓' : '–', app.origin, [button, said]];
  };
  // All of them stand on one page.
  const page = await read('api/apps');
  show(table(['app_id', words.environment, words.signType, words.bits, words.fingerprints, words.encrypted, words.origin, ''], page.items.map((app) => row(cells(app)))));
}

// The inbox

const ITEM_HEADS = () => [words.received, words.type, 'app_id', words.state, words.attempts, 'id'];
const itemCells = (item) => [time(item.received_at), dash(item.type), whole(item.app_id), pill(item.state), item.attempts, el('span', { class: 'faint' }, item.id)];

function inbox(state = '') {
  const list = el('div');
  const options = ['', 'pending', 'delivered', 'dead', 'ignored'].map((one) => el('option', { value: one, selected: one === state }, one ? words[STATES[one]] : words.all));
  const select = el('select', { id: 'state', 'aria-label': words.state, onchange: () => attempt(load) }, options);
  const load = () => {
    const chosen = select.value;
    const open = (item) => entry(item, () => inbox(chosen));
    return fill(list, 'api/inbox', { ...(chosen && { state: chosen }), order: 'desc' }, { heads: ITEM_HEADS(), cells: itemCells, open });
  };
  show(el('div', { class: 'bar' }, select), list);
  return load();
}

/** Verifies again, one or all, tells what became of it, and goes `on` if the operator is still there. */
async function reverify(path, on) {
  const mine = turn;
  const report = await ask(path, { method: 'POST', within: 0 });
  note(`${words.reverify}: ${words.reverified(report)}`);
  if (mine === turn) await on();
}

function refused() {
  const list = el('div');
  const all = el('button', { id: 'reverify-all', onclick: () => attempt(() => reverify('api/inbox/reverify', load), all) }, words.reverifyAll);
  const load = () => fill(list, 'api/inbox', { state: 'refused', order: 'desc' }, { heads: ITEM_HEADS(), cells: itemCells, open: (item) => entry(item, refused) });
  show(el('div', { class: 'bar' }, all), list);
  return load();
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

/** Owes an entry to the backend again; what it needn't have a second time, only after a question. */
async function replay(view, path, reload) {
  // As it is by now: the backend may have taken it since the page was opened.
  const { state } = await read(path);
  const question = words.replaySure[state];
  if (question && !confirm(question)) return;
  const mine = turn;
  await ask(`${path}/replay`, { method: 'POST' });
  note(`${view.type} ${view.id}: ${words.replayed}`);
  if (mine === turn) await reload();
}

async function entry(item, back) {
  begin();
  const isRefused = item.state === 'refused';
  const path = `api/inbox/${encodeURIComponent(item.id)}`;
  const view = await read(path + (isRefused ? '?explain=true' : ''));
  const button = (id, word, work) => {
    const made = el('button', { id, onclick: () => attempt(work, made) }, word);
    return made;
  };
  show(
    el('div', { class: 'bar' }, button('back', `← ${words.back}`, back),
      isRefused ? button('reverify', words.reverify, () => reverify(`${path}/reverify`, back))
        : button('replay', words.replay, () => replay(view, path, () => entry(item, back)))),
    facts([['id', view.id], ['notify_id', dash(view.notify_id)], [words.type, dash(view.type)], [words.state, pill(view.state)], ['app_id', dash(view.app_id)],
      [words.merchant, `${dash(view.user_id)} / ${dash(view.auth_app_id)}`], [words.received, time(view.received_at)],
      view.next_attempt_at && [words.next, time(view.next_attempt_at)],
      view.waits_for_route && [words.waitsFor, words.aRoute],
      view.refusal && [words.reason, reason(view)],
      view.refusal && [words.peer, view.refusal.peer], view.refusal && [words.times, view.refusal.times]]),
    view.explanation && [el('h2', {}, words.diagnosis), diagnosis(view.explanation)],
    !isRefused && [el('h2', {}, words.history), el('div', { id: 'history' }, table([words.at, words.took, words.answer, words.via, words.to],
      view.history.map((one) => row([time(one.at), `${one.duration_ms} ms`, answer(one), words[one.via] ?? one.via, dash(one.to)]))))],
    view.event && [el('h2', {}, words.event), json(view.event)],
    Object.keys(view.params).length > 0 && [el('h2', {}, isAlipays(view) ? words.params : words.receivedParams), json(view.params)]);
}

// The frame

const TABS = { overview, merchants, inbox: () => inbox(), refused, apps };

function go(name) {
  tab = name;
  begin();
  // At once: under the name of another tab the old rows would be taken for its own.
  show();
  for (const button of byId('tabs').children) {
    if (button.id === `tab-${name}`) button.setAttribute('aria-current', 'page');
    else button.removeAttribute('aria-current');
  }
  return attempt(TABS[name]);
}

/** Opens a tab with a sample, which the overview takes itself. */
function arrive(name) {
  go(name);
  if (name !== 'overview') tick();
}

function label() {
  words = WORDS[language];
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  for (const [id, word] of [['language', 'other'], ['leave', 'leave'], ['ask', 'ask'], ['where', 'where'], ['enter', 'enter']]) byId(id).textContent = words[word];
  byId('tabs').replaceChildren(...Object.keys(TABS).map((name) => el('button', { id: `tab-${name}`, onclick: () => go(name) }, words[name])));
}

const [OUTSIDE, INSIDE] = [['login'], ['view', 'tabs', 'leave']];

function swap(from, to) {
  for (const id of from) byId(id).hidden = true;
  for (const id of to) byId(id).hidden = false;
}

/** To the login, with `why`. Nothing that was shown stays behind. */
function leave(why) {
  clearInterval(timer);
  token = null;
  remember('token', null);
  samples = [];
  begin();
  show();
  mark('');
  note();
  complain(why);
  swap(INSIDE, OUTSIDE);
  byId('token').focus();
}

async function enter() {
  // No header can hold another character, and no token has one.
  if (!/^[\x20-\x7e]+$/.test(token)) throw new Problem(words.tokenForm);
  // Asked first: a wrong one throws, and the login stays. It is answered from memory.
  await ask('api/config');
  remember('token', token);
  swap(OUTSIDE, INSIDE);
  byId('token').value = '';
  clearInterval(timer);
  timer = setInterval(tick, SAMPLE_EVERY);
  arrive(tab);
}

byId('login').addEventListener('submit', (event) => {
  event.preventDefault();
  token = byId('token').value.trim();
  attempt(async () => { await enter(); byId(`tab-${tab}`).focus(); }, byId('enter'));
});
byId('leave').addEventListener('click', () => leave());
byId('language').addEventListener('click', () => {
  language = language === 'zh' ? 'en' : 'zh';
  remember('language', language);
  label();
  if (byId('login').hidden) arrive(tab);
  else complain();
});
label();
if (token) attempt(enter);
