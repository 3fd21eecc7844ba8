
'use strict';
// Reads /status.json once a second while the page is visible and keeps two minutes of it. Rates
// and quantiles are differences of the server's counters over the server's own clock.
// Everything from the server becomes text (textContent), never markup.
const PERIOD_MS = 1000;
const HISTORY = 120;  // samples
const WINDOW = 10;    // samples that a rate or a quantile looks back

const samples = [];
let lastAnswer = null;

const find = (id) => document.getElementById(id);

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Numbers ------------------------------------------------------------------------------------

function format(value) {
  if (value === null || !Number.isFinite(value)) return '–';
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString('en');
  return value.toPrecision(value >= 10 ? 3 : 2);
}

function formatSeconds(value) {
  if (value === null) return ['–', ''];
  return value < 1 ? [format(value * 1000), 'ms'] : [format(value), 's'];
}

function formatUptime(seconds) {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] =
      [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

// Samples ------------------------------------------------------------------------------------

const series = (sample, name) => sample.metrics[`parallax:${name}`] || [];

function total(sample, name) {
  return series(sample, name).reduce((sum, one) => sum + one.value, 0);
}

const histogram = (sample, name) => series(sample, name)[0];

// The sample WINDOW before number `i`, or the oldest there is; null for the first.
const before = (i) => (i > 0 ? samples[Math.max(0, i - WINDOW)] : null);

function rate(i, count) {
  const old = before(i);
  if (!old) return null;
  const seconds = samples[i].server.uptime_seconds - old.server.uptime_seconds;
  return seconds > 0 ? (count(samples[i]) - count(old)) / seconds : null;
}

// As Prometheus's histogram_quantile: linear within the bucket; null without observations.
function quantile(i, name, q) {
  const old = before(i);
  if (!old) return null;
  const [now, then] = [histogram(samples[i], name), histogram(old, name)];
  const counts = now.buckets.map(([bound, count], b) => [bound, count - then.buckets[b][1]]);
  const rank = q * counts[counts.length - 1][1];
  if (rank === 0) return null;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (bound === null) return lower;
    if (count >= rank) return lower + (bound - lower) * (rank - below) / (count - below);
    [lower, below] = [bound, count];
  }
  return lower;
}

function ratio(i, part, whole) {
  const old = before(i);
  if (!old) return null;
  const difference = (of) => of(samples[i]) - of(old);
  return difference(whole) > 0 ? difference(part) / difference(whole) : null;
}

const counter = (name) => (sample) => total(sample, name);
const gauge = (name) => (i) => total(samples[i], name);
const sumOf = (name) => (sample) => histogram(sample, name).sum;
const countOf = (name) => (sample) => histogram(sample, name).count;

// Token rows.
const perStep = (i, kind) =>
    ratio(i, counter(`step_${kind}_tokens_total`), countOf('step_time_seconds'));

// Charts -------------------------------------------------------------------------------------

// lines: one or two functions of the sample's number; the first has the large figure.
const CHARTS = [
  {id: 'output', title: 'Output tokens', unit: 'tok/s',
   lines: [(i) => rate(i, counter('generation_tokens_total'))],
   detail: (i) => `${format(rate(i, counter('prompt_tokens_total')))} prompt tok/s`},
  {id: 'requests', title: 'Requests', unit: 'req/s',
   lines: [(i) => rate(i, counter('requests_submitted_total'))],
   detail: (i) => `${format(rate(i, counter('requests_refused_total')))} refused/s`},
  {id: 'ttft', title: 'Time to first token, median and p95', seconds: true,
   lines: [(i) => quantile(i, 'time_to_first_token_seconds', 0.5),
           (i) => quantile(i, 'time_to_first_token_seconds', 0.95)]},
  {id: 'itl', title: 'Inter-token latency, median and p95', seconds: true,
   lines: [(i) => quantile(i, 'inter_token_latency_seconds', 0.5),
           (i) => quantile(i, 'inter_token_latency_seconds', 0.95)]},
  {id: 'e2e', title: 'Request latency, median and p95', seconds: true,
   lines: [(i) => quantile(i, 'e2e_request_latency_seconds', 0.5),
           (i) => quantile(i, 'e2e_request_latency_seconds', 0.95)]},
  {id: 'queue', title: 'Waiting requests', unit: '',
   lines: [gauge('num_requests_waiting')],
   detail: (i) => `${format(rate(i, counter('num_preemptions_total')))} preemptions/s`},
  {id: 'batch', title: 'Sequences in a step', unit: 'mean',
   lines: [(i) => ratio(i, sumOf('batch_size'), countOf('batch_size'))],
   detail: (i) => `${format(rate(i, countOf('step_time_seconds')))} steps/s: ${
       format(perStep(i, 'prefill'))} prefill, ${format(perStep(i, 'decode'))} decode`},
  {id: 'prefix', title: 'Prompt tokens found in the prefix cache', unit: '%',
   lines: [(i) => percent(ratio(i, counter('prefix_cache_hits_total'),
                                counter('prefix_cache_queries_total')))],
   detail: (i) => `${format(total(samples[i], 'kv_pages_cached'))} KV pages kept`},
];

const percent = (share) => (share === null ? null : 100 * share);

function addCharts() {
  for (const chart of CHARTS) {
    const card = element('article', 'card');
    card.id = `chart-${chart.id}`;
    chart.value = element('p', 'value');
    chart.detailLine = element('p', 'detail');
    chart.svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    chart.svg.setAttribute('viewBox', `0 0 ${HISTORY - 1} 40`);
    chart.svg.setAttribute('preserveAspectRatio', 'none');
    chart.svg.setAttribute('role', 'img');
    card.append(element('h3', '', chart.title), chart.value, chart.detailLine, chart.svg);
    find('charts').append(card);
  }
}

function path(className, d) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  made.setAttribute('class', className);
  made.setAttribute('d', d);
  return made;
}

// The newest sample is at the right edge; a gap in the numbers is a gap in the line.
function sparkline(values, top) {
  let d = '';
  let pen = 'M';
  values.forEach((value, i) => {
    if (value === null) { pen = 'M'; return; }
    const [x, y] = [HISTORY - values.length + i, 38 - 36 * value / top];
    d += `${pen}${x} ${y.toFixed(2)}`;
    pen = 'L';
  });
  return d;
}

function drawChart(chart) {
  const lines = chart.lines.map((line) => samples.map((_, i) => line(i)));
  const known = lines.flat().filter((value) => value !== null);
  const top = Math.max(...known, 1e-9);
  const write = (value) =>
      chart.seconds ? formatSeconds(value) : [format(value), value === null ? '' : chart.unit];
  const latest = lines.map((line) => write(line[line.length - 1]));
  chart.value.replaceChildren(latest[0][0], ' ', element('span', 'unit', latest[0][1]));
  chart.detailLine.textContent =
      latest[1] ? `p95 ${latest[1].join(' ')}` : chart.detail(samples.length - 1);
  const drawn = lines.map((line, n) => path(n ? 'second' : 'first', sparkline(line, top)));
  if (known.length > 1 && !lines[0].slice(1).includes(null)) {
    const start = HISTORY - lines[0].length + (lines[0][0] === null ? 1 : 0);
    drawn.unshift(path('area', `${sparkline(lines[0], top)}L${HISTORY - 1} 40L${start} 40Z`));
  }
  chart.svg.replaceChildren(...drawn);
  chart.svg.setAttribute('aria-label', known.length ?
      `${chart.title}: now ${latest.map((one) => one.join(' ')).join(' and ')}, highest ${
          write(top).join(' ')}` : `${chart.title}: nothing to show`);
}

// Meters -------------------------------------------------------------------------------------

const METERS = [
  {id: 'running', title: 'Running requests', most: (s) => s.model.max_num_seqs,
   used: (s) => total(s, 'num_requests_running'), unit: 'sequences at most'},
  {id: 'pages', title: 'KV pages', most: (s) => total(s, 'kv_pages'),
   used: (s) => total(s, 'kv_pages_used'), cached: (s) => total(s, 'kv_pages_cached'),
   unit: 'pages'},
  {id: 'probe', title: 'Probe-state pool', most: (s) => total(s, 'probe_state_bytes') / 1024,
   used: (s) => total(s, 'probe_state_bytes_used') / 1024, unit: 'KiB'},
];

function addMeters() {
  for (const meter of METERS) {
    const card = element('article', 'card');
    card.id = `meter-${meter.id}`;
    meter.value = element('p', 'value');
    meter.detailLine = element('p', 'detail');
    meter.track = element('div', 'track');
    meter.track.setAttribute('role', 'meter');
    meter.track.setAttribute('aria-label', meter.title);
    meter.track.setAttribute('aria-valuemin', '0');
    meter.usedBar = element('span', 'used');
    meter.cachedBar = element('span', 'cached');
    meter.track.append(meter.usedBar, meter.cachedBar);
    card.append(element('h3', '', meter.title), meter.value, meter.track, meter.detailLine);
    find('meters').append(card);
  }
}

function drawMeter(meter, sample) {
  const [most, used] = [meter.most(sample), meter.used(sample)];
  const cached = meter.cached ? meter.cached(sample) : 0;
  const share = (part) => (most > 0 ? 100 * part / most : 0);
  meter.usedBar.style.width = `${share(used)}%`;
  meter.cachedBar.style.width = `${share(cached)}%`;
  meter.track.setAttribute('aria-valuemax', String(most));
  meter.track.setAttribute('aria-valuenow', String(used));
  meter.value.replaceChildren(format(used), ' ',
                              element('span', 'unit', `of ${format(most)} ${meter.unit}`));
  meter.detailLine.textContent = most > 0 ?
      `${format(share(used))} % used${meter.cached ? `, ${format(share(cached))} % cached` : ''}` :
      'none for this model and device';
}

// Tables -------------------------------------------------------------------------------------

function fillTable(id, rows) {
  find(id).querySelector('tbody').replaceChildren(...rows.map((cells) => {
    const row = element('tr');
    cells.forEach((text, column) => {
      const cell = element(column ? 'td' : 'th', '', text);
      if (!column) cell.scope = 'row';
      row.append(cell);
    });
    return row;
  }));
}

function drawTables(sample) {
  const sum = (name) => format(total(sample, name));
  const finished = series(sample, 'request_success_total')
      .map((one) => [`Requests ended: ${one.labels.finished_reason}`, format(one.value)]);
  fillTable('totals', [
    ['Requests accepted', sum('requests_submitted_total')], ...finished,
    ['Requests refused', sum('requests_refused_total')],
    ['Prompt tokens', sum('prompt_tokens_total')],
    ['Output tokens', sum('generation_tokens_total')],
    ['Preemptions', sum('num_preemptions_total')]]);
  fillTable('calls', series(sample, 'grpc_requests_total')
      .filter((one) => one.value > 0)
      .map((one) => [one.labels.method, one.labels.code, format(one.value)]));
}

function drawProblems(problems) {
  find('no-problems').hidden = problems.length > 0;
  find('problems').replaceChildren(...problems.slice().reverse().map((problem) => {
    const {time, level, event, ...fields} = problem;
    const item = element('li', level === 'error' ? 'problem error' : 'problem');
    const words = Object.entries(fields).map(([key, value]) => `${key}: ${value}`).join(' · ');
    item.append(element('b', '', `${level}: ${event}`), element('span', 'detail', time),
                element('div', '', words));
    return item;
  }));
}

function drawHead(sample) {
  const {server, model} = sample;
  document.title = `${server.serving ? '' : '(!) '}${model.name} · parallax-server`;
  find('model').textContent = model.name;
  const parts = [model.architecture, model.device, model.weight_dtype && `weights ${model.weight_dtype}`,
                 model.kv_dtype && `KV ${model.kv_dtype}`,
                 `context ${format(model.max_context_tokens)}`,
                 `parallax-server ${server.version}`, `up ${formatUptime(server.uptime_seconds)}`];
  find('about').textContent = parts.filter(Boolean).join(' · ');
  find('health').textContent = server.serving ? 'Serving' : `Not serving: ${server.health}`;
  find('health').className = server.serving ? 'pill good' : 'pill bad';
}

// Life ---------------------------------------------------------------------------------------

function take(sample) {
  const last = samples[samples.length - 1];
  if (last && sample.server.uptime_seconds < last.server.uptime_seconds) samples.length = 0;
  samples.push(sample);
  if (samples.length > HISTORY) samples.shift();
  lastAnswer = new Date();
  drawHead(sample);
  CHARTS.forEach(drawChart);
  METERS.forEach((meter) => drawMeter(meter, sample));
  drawTables(sample);
  drawProblems(sample.problems);
}

function setStale(stale, why) {
  document.body.classList.toggle('stale', stale);
  find('offline').hidden = !stale;
  if (stale) {
    const since = lastAnswer ? ` since ${lastAnswer.toLocaleTimeString()}` : '';
    find('offline').textContent = `No answer from the server${since}: ${why}`;
  }
}

async function look() {
  try {
    const reply = await fetch('/status.json', {signal: AbortSignal.timeout(5000)});
    if (!reply.ok) throw new Error(`HTTP ${reply.status}`);
    take(await reply.json());
    setStale(false);
  } catch (error) {
    setStale(true, error.message);
  }
}

async function watch() {
  if (!document.hidden) await look();
  setTimeout(watch, PERIOD_MS);
}

addCharts();
addMeters();
watch();
