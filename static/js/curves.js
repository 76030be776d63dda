// The charts of a run or of a comparison: which there are, live points, the x axis and the smoothing in the URL.

import { Chart } from "./chart.js";
import { pageData, refreshFragments } from "./page.js";
import { showRun, stateKey } from "./runview.js";
import { Store } from "./store.js";
import { openStream } from "./stream.js";
import { readTokens } from "./tokens.js";
import { words } from "./words.js";

const FIRST = ["train/loss", "val/loss", "train/accuracy", "val/accuracy"];
const LAST = ["train/lr"];
const DRAW_MS = 200;

const { runs, single } = pageData();
const place = document.querySelector("[data-charts]");
const form = document.querySelector("[data-axis-form]");
const choice = (name) => new FormData(form).get(name);

const charts = new Map();
const dirty = new Set();
const keys = new Map(runs.map((run) => [run.id, null]));
let tokens = readTokens();
let drawnAt = 0;
let asked = false;

const store = new Store(runs, choice("x"), (metric) => {
  dirty.add(groupOf(metric));
  plan();
});
const look = () => ({ axis: store.axis, smooth: Number(choice("smooth")) });

// On a run's own page training and validation share a chart; a comparison has one chart a metric.
function groupOf(metric) {
  const match = single && /^(?:train|val|test)\/(.+)$/.exec(metric);
  return match && metric !== "train/lr" ? match[1] : metric;
}

function rank(group) {
  const order = single ? ["loss", "accuracy"] : FIRST;
  if (order.includes(group)) return order.indexOf(group);
  if (LAST.includes(group)) return 1000;
  return group.startsWith("system/") ? 2000 : 500;
}

function linesOf(metrics) {
  return [...store.runs.values()].flatMap((run) =>
    metrics.map((metric) => ({ run, metric, name: nameOf(run, metric, metrics), colour: tokens.runs[run.colour] })),
  );
}

function nameOf(run, metric, metrics) {
  if (!single) return run.label;
  if (groupOf(metric) === metric) return words[metric] ?? metric;
  return metric.startsWith("train/") ? words.training : metric.startsWith("val/") ? words.validation : metric;
}

// Adds charts for metrics that are new, in their place.
function addCharts() {
  const groups = new Map();
  for (const metric of [...store.metrics].sort()) {
    const group = groupOf(metric);
    groups.set(group, [...(groups.get(group) ?? []), metric]);
  }
  const sorted = [...groups].sort(([a], [b]) => rank(a) - rank(b) || a.localeCompare(b));
  for (const [group, metrics] of sorted) {
    const chart = charts.get(group) ?? new Chart(place, {
      title: words[group] ?? group, metrics, lines: linesOf, store, look,
    });
    chart.metrics = metrics;
    chart.frame.classList.toggle("chart-small", rank(group) >= 500);
    chart.changed = () => {
      dirty.add(group);
      plan();
    };
    charts.set(group, chart);
    place.append(chart.frame);
  }
  place.querySelector(":scope > p")?.remove();
  if (!charts.size) {
    const empty = document.createElement("p");
    const over = runs.every((run) => ["finished", "failed", "canceled"].includes(run.state));
    empty.textContent = over ? words.nothing : words.empty;
    place.append(empty);
  }
}

function plan() {
  if (asked) return;
  asked = true;
  setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawnAt + DRAW_MS - performance.now()));
}

async function draw() {
  if ([...dirty].some((group) => !charts.has(group)) || [...store.metrics].some((m) => !charts.has(groupOf(m)))) addCharts();
  for (const [group, chart] of charts) {
    const metrics = [...store.metrics].filter((metric) => groupOf(metric) === group).sort();
    if (metrics.length !== chart.metrics.length) chart.metrics = metrics;
  }
  const now = [...dirty];
  dirty.clear();
  for (const group of now) await charts.get(group)?.draw(tokens);
  drawnAt = performance.now();
  asked = false;
  if (dirty.size) plan();
}

function drawAll() {
  for (const group of charts.keys()) dirty.add(group);
  plan();
}

function keepInUrl() {
  const url = new URL(location.href);
  for (const [name, usual] of [["x", "step"], ["smooth", "0"]]) {
    if (choice(name) === usual) url.searchParams.delete(name);
    else url.searchParams.set(name, choice(name));
  }
  history.replaceState(null, "", url);
}

form.addEventListener("change", async (event) => {
  keepInUrl();
  if (event.target.name !== "x") {
    drawAll();
    return;
  }
  for (const chart of charts.values()) chart.forgetZoom();
  try {
    await store.setAxis(choice("x"));
  } catch {
    // the next event or choice asks again
  }
  drawAll();
});
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("themechange", () => {
  tokens = readTokens();
  drawAll();
});

function onRun(run) {
  showRun(run);
  const mine = store.runs.get(run.id);
  if (!mine) return;
  const known = Object.keys(run.summary).filter((metric) => !store.metrics.has(metric));
  if (run.attempt !== mine.attempt || known.length) {
    mine.attempt = run.attempt;
    for (const metric of known) store.metrics.add(metric);
    store.loadSoon(run.id, 0);
  }
  mine.steps_per_epoch = run.steps_per_epoch ?? mine.steps_per_epoch;
  if (run.started_at) mine.began = Date.parse(run.started_at) / 1000;
  const key = stateKey(run);
  if (keys.get(run.id) !== null && keys.get(run.id) !== key) refreshFragments();
  keys.set(run.id, key);
}

async function begin() {
  addCharts();
  try {
    await store.load();
  } catch {
    for (const id of store.runs.keys()) store.loadSoon(id, 2000);
  }
  openStream([...store.runs.keys()], store.cursors, {
    open: (again) => again && refreshFragments(),
    run: onRun,
    points: ({ series }) => store.add(series),
    resync: ({ run }) => store.loadSoon(run, 0),
    gone: ({ run }) => {
      store.forget(run);
      refreshFragments();
    },
  });
}

begin();
