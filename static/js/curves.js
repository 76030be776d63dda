// The charts of a run or of a comparison: puts the parts together. What is shown is the view (view.js), the points are the
// store's, live ones come by the stream; a change of either plans the charts that it touches (pace.js).

import "./menus.js";
import { saveError, savePicture, saveTable } from "./download.js";
import { Full } from "./full.js";
import { Grid } from "./grid.js";
import { Grouping } from "./grouping.js";
import { Groups } from "./groups.js";
import { Hover } from "./hover.js";
import { attachKeys } from "./chartkeys.js";
import { Legend } from "./legend.js";
import { Pace } from "./pace.js";
import { pageData, refreshFragments } from "./page.js";
import { showRun, stateKey } from "./runview.js";
import { Slide } from "./slide.js";
import { Status } from "./status.js";
import { Store } from "./store.js";
import { openStream } from "./stream.js";
import { readTokens } from "./tokens.js";
import { Toolbar } from "./toolbar.js";
import { attachTouch, isTouch } from "./touch.js";
import { setView, toggled, view } from "./view.js";
import { words } from "./words.js";

const { runs, single, fields } = pageData();
const grouping = new Grouping(fields, runs);
const keys = new Map(runs.map((run) => [run.id, null]));
const pace = new Pace();
let tokens = readTokens();

const store = new Store(runs, changed);
const groups = new Groups(store, changed);
const status = new Status(store);
const page = {
  store, groups, grouping, single,
  tokens: () => tokens,
  nameOf,
  plan: (chart, soon) => pace.plan(chart, soon),
  slide: new Slide(() => grid.near),
  dragmode: () => (isTouch() ? false : toolbar.dragmode()),
  dragChanged: () => grid.near.forEach((chart) => pace.plan(chart)),
};
const grid = new Grid(page, equip);
const hover = new Hover(() => grid.near);
const legend = single ? null : new Legend(page, (marked) => grid.near.forEach((chart) => chart.overlay.mark(marked)));
const toolbar = new Toolbar(page);
const full = new Full(() => [...grid.charts.values()]);

function nameOf(run, metric, metrics) {
  if (!single) return run.label;
  if (metrics.length === 1 && grid.chartOf(metric) === metric) return words[metric] ?? metric;
  return metric.startsWith("train/") ? words.training : metric.startsWith("val/") ? words.validation : metric;
}

function equip(chart) {
  const actions = {
    full: () => full.toggle(chart),
    log: () => chart.toggleLog(),
    reset: () => chart.resetZoom(),
    png: () => savePicture(chart, "png").catch(() => saveError(chart)),
    svg: () => savePicture(chart, "svg").catch(() => saveError(chart)),
    csv: () => saveTable(chart, false),
    "csv-window": () => saveTable(chart, true),
    hide: () => hideChart(chart),
  };
  chart.frame.addEventListener("click", (event) => {
    const act = event.target.closest("[data-act]")?.dataset.act;
    actions[act]?.();
    const menu = event.target.closest("details.menu");
    if (actions[act] && menu) menu.open = false;
  });
  hover.attach(chart);
  attachKeys(chart, hover, full);
  attachTouch(chart, hover);
}

function hideChart(chart) {
  let y = view.y.length ? view.y : [...store.metrics];
  for (const metric of chart.metrics) y = toggled(y, metric, false);
  setView({ y });
}

// Points of a metric, or the state of reading them, have changed.
function changed(metric, live = false) {
  const name = grid.chartOf(metric);
  if (!grid.charts.has(name) || !grid.charts.get(name).metrics.includes(metric)) {
    grid.arrange();
    toolbar.show();
    full.follow();
  }
  const chart = grid.charts.get(name);
  if (!chart?.near) return;
  if (view.group.length) groups.refreshSoon(metric, () => chart.wantGroups([metric], true));
  chart.want({ live });
}

const LAYOUT = ["y", "find", "closed"];

document.addEventListener("viewchange", ({ detail }) => {
  if (detail.has("x")) {
    store.clear();
    groups.found.clear();
  }
  if (detail.has("smooth")) store.forgetSmooth(view.smooth);
  if (LAYOUT.some((name) => detail.has(name))) grid.arrange();
  if (detail.has("full")) full.follow();
  toolbar.show();
  legend?.show();
  if ([...detail].every((name) => [...LAYOUT, "full", "baseline"].includes(name))) return;
  for (const chart of grid.near) chart.want();
});

document.addEventListener("themechange", () => {
  tokens = readTokens();
  for (const chart of grid.near) pace.plan(chart);
});

function onRun(run) {
  showRun(run);
  const mine = store.runs.get(run.id);
  if (!mine) return;
  const fresh = Object.keys(run.summary).filter((metric) => !mine.metrics.includes(metric));
  mine.metrics.push(...fresh);
  if (run.attempt !== mine.attempt) store.reloadRun(run.id);
  for (const metric of fresh) store.loadSoon(metric, run.id, 0);
  for (const metric of fresh) changed(metric);
  mine.attempt = run.attempt;
  mine.state = run.state;
  mine.steps_per_epoch = run.steps_per_epoch ?? mine.steps_per_epoch;
  if (run.started_at) mine.began = Date.parse(run.started_at) / 1000;
  status.show();
  const key = stateKey(run);
  if (keys.get(run.id) !== null && keys.get(run.id) !== key) refreshFragments();
  keys.set(run.id, key);
}

grid.arrange();
legend?.show();
toolbar.show();
full.follow();
status.show();
openStream([...store.runs.keys()], Object.fromEntries(runs.map((run) => [run.id, run.seq])), {
  state: (state) => status.connection(state),
  open: (again) => {
    if (!again) return;
    refreshFragments();
    for (const chart of grid.near) chart.want({ again: true });
  },
  run: onRun,
  points: ({ series }) => {
    store.add(series);
    status.arrived();
  },
  resync: ({ run }) => store.reloadRun(run),
  gone: ({ run }) => {
    store.forget(run);
    grid.arrange();
    legend?.show();
    for (const chart of grid.near) pace.plan(chart);
    refreshFragments();
  },
});
