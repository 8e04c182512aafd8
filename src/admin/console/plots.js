'use strict';
// The plots, and what they are drawn from: samples of the metrics.

/* exported sampleOf, plots */

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
  const most = (Math.max(0, ...values) || 1) * 1.1;
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
  const last = (line) => line.values.filter((value) => value !== null).at(-1);
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
