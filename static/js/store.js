// The points of a page's runs, by metric: read when a chart wants them, extended live, read again when they grow too many
// or change behind us. A layer is one metric as it is or smoothed, whole ("coarse") or a window of it ("fine").

import { xOf } from "./axes.js";
import { readColumn } from "./columns.js";
import { read } from "./reads.js";
import { view } from "./view.js";

const MOST = 2000; // points held of a series before it is read again, reduced
const SERIES_A_CALL = 120; // more would keep the first chart waiting for the last
const POINTS_A_CHART = 30_000; // measured in Chromium without a GPU: more make a drawing of 100 runs slow
const AGAIN_MS = 300;

// Points asked for a series: what its chart can show, and all charts can bear.
export function pointsFor(lines) {
  return Math.max(240, Math.min(1000, Math.round(POINTS_A_CHART / Math.max(1, lines) / 40) * 40));
}

class Layer {
  constructor() {
    this.state = "new"; // loading, ready, failed
    this.series = new Map(); // run -> {step, x, value, total, returned, cursor, noAxis}
    this.waiting = []; // columns that came live while it was being read
    this.abort = null;
  }
}

export class Store {
  // `changed(metric, live)` is called after points of a metric, or the state of reading them, have changed.
  constructor(runs, changed) {
    this.runs = new Map(runs.map((run) => [run.id, run]));
    this.changed = changed;
    this.layers = new Map(); // "metric\nsmooth" -> Layer
    this.windows = new Map(); // the same -> {from, to, series, key}
    this.again = new Map();
    this.news = 0; // points that came live
    this.wanted = new Set();
  }

  get metrics() {
    return new Set([...this.runs.values()].flatMap((run) => run.metrics));
  }

  layer(metric, smooth = 0) {
    const key = `${metric}\n${smooth}`;
    if (!this.layers.has(key)) this.layers.set(key, new Layer());
    return this.layers.get(key);
  }

  state(metric) {
    return this.layer(metric).state;
  }

  get(run, metric, smooth = 0) {
    return this.layers.get(`${metric}\n${smooth}`)?.series.get(run);
  }

  fine(run, metric, smooth = 0) {
    return this.windows.get(`${metric}\n${smooth}`)?.series.get(run);
  }

  // Reads these metrics unless they are here; those that are wanted at the same time share calls.
  want(metrics, smooth = 0) {
    const fresh = metrics.filter((metric) => this.layer(metric, smooth).state === "new");
    for (const metric of fresh) {
      this.layer(metric, smooth).state = "loading";
      this.wanted.add(`${metric}\n${smooth}`);
    }
    if (fresh.length) queueMicrotask(() => this.readWanted());
  }

  // What could not be read is read again when it is wanted next.
  retry(metrics) {
    for (const [key, layer] of this.layers) {
      if (layer.state === "failed" && metrics.includes(key.slice(0, key.lastIndexOf("\n")))) layer.state = "new";
    }
  }

  readWanted() {
    const bySmooth = Map.groupBy(this.wanted, (key) => key.slice(key.lastIndexOf("\n") + 1));
    this.wanted.clear();
    for (const [smooth, keys] of bySmooth) {
      const metrics = keys.map((key) => key.slice(0, key.lastIndexOf("\n")));
      const size = Math.max(1, Math.floor(SERIES_A_CALL / this.runs.size));
      for (let i = 0; i < metrics.length; i += size) this.load(metrics.slice(i, i + size), Number(smooth));
    }
  }

  async load(metrics, smooth = 0, ids = this.having(metrics)) {
    const layers = metrics.map((metric) => this.layer(metric, smooth));
    const axis = view.x;
    for (const layer of layers) layer.reading = (layer.reading ?? 0) + 1;
    try {
      const answer = ids.length ? await this.read(ids, metrics, { smooth }) : [];
      if (axis !== view.x || layers[0] !== this.layers.get(`${metrics[0]}\n${smooth}`)) return;
      for (const one of answer) this.layer(one.metric, smooth).series.set(one.run, one);
      for (const layer of layers) layer.state = "ready";
    } catch (error) {
      for (const layer of layers) {
        if (layer.state === "loading") layer.state = "failed";
        layer.error = error.message;
      }
    } finally {
      for (const layer of layers) {
        layer.reading -= 1;
        const held = layer.reading ? [] : layer.waiting.splice(0);
        for (const column of held) this.extend(layer, column);
      }
    }
    for (const metric of metrics) this.changed(metric);
  }

  having(metrics) {
    return [...this.runs.values()].filter((run) => metrics.some((metric) => run.metrics.includes(metric))).map((run) => run.id);
  }

  async read(ids, metrics, { smooth = 0, window = null, signal } = {}) {
    const query = [
      ...ids.map((id) => ["run", id]),
      ...metrics.map((metric) => ["metric", metric]),
      ["x", view.x],
      ["points", String(pointsFor(ids.length) * (window ? 2 : 1))],
      ["format", "typed"],
    ];
    if (smooth) query.push(["smooth", String(smooth)]);
    if (window) query.push(["from", String(window.from)], ["to", String(window.to)]);
    const { series } = await read("series", query, signal);
    return series.map(decoded);
  }

  // The window of these metrics at full fidelity; null forgets it. What is held stays until the new points are here.
  async readWindow(metrics, smooth, window, signal) {
    if (!window) {
      for (const metric of metrics) this.windows.delete(`${metric}\n${smooth}`);
      return;
    }
    const wide = (window.to - window.from) / 2; // so that a short pan finds its points here already
    const asked = { from: window.from - wide, to: window.to + wide };
    const axis = view.x;
    for (const one of await this.read(this.having(metrics), metrics, { smooth, window: asked, signal })) {
      if (axis !== view.x) return;
      const key = `${one.metric}\n${smooth}`;
      const held = this.windows.get(key);
      const fine = held?.asked === asked ? held : { asked, series: new Map() };
      fine.series.set(one.run, one);
      this.windows.set(key, fine);
    }
  }

  // Whether the points of a window are here with nothing left out between them.
  hasWindow(metric, smooth, window) {
    const whole = this.layers.get(`${metric}\n${smooth}`);
    if (whole?.state === "ready" && [...whole.series.values()].every((one) => one.returned >= one.total)) return true;
    const fine = this.windows.get(`${metric}\n${smooth}`);
    if (!fine || fine.asked.from > window.from || fine.asked.to < window.to) return false;
    return [...fine.series.values()].every((one) => one.returned >= one.total);
  }

  // Points of the stream: `[{run, metric, step, time, value, cursor}]`.
  add(columns) {
    for (const column of columns) {
      const run = this.runs.get(column.run);
      if (!run) continue;
      if (!run.metrics.includes(column.metric)) {
        run.metrics.push(column.metric);
        this.changed(column.metric);
      }
      const layer = this.layer(column.metric);
      if (layer.reading) layer.waiting.push(column);
      else if (layer.state === "ready") this.extend(layer, column);
    }
  }

  extend(layer, column) {
    const run = this.runs.get(column.run);
    if (!run) return;
    let one = layer.series.get(run.id);
    if (one && column.cursor <= one.cursor) return;
    if (!one) layer.series.set(run.id, (one = { step: [], x: [], value: [], total: 0, returned: 0, cursor: 0 }));
    if (column.step[0] <= (one.step.at(-1) ?? -1)) {
      this.loadSoon(column.metric, run.id); // a script rewrote earlier steps
      return;
    }
    one.cursor = column.cursor;
    for (let i = 0; i < column.step.length; i++) {
      const x = xOf(view.x, run, column.step[i], column.time[i]);
      if (x === null) {
        one.noAxis = true;
        break;
      }
      one.step.push(column.step[i]);
      one.x.push(Math.max(x, one.x.at(-1) ?? x));
      one.value.push(Number(column.value[i])); // "NaN" and "Infinity" travel as strings
      one.total += 1;
      one.returned += 1;
      this.news += 1;
    }
    if (one.step.length > MOST) this.loadSoon(column.metric, run.id);
    this.changed(column.metric, true);
  }

  // Reads one run's series of a metric again, also as smoothed where that is shown.
  loadSoon(metric, id, wait = AGAIN_MS) {
    const key = `${metric}\n${id}`;
    if (this.again.has(key)) return;
    const reload = () => {
      this.again.delete(key);
      for (const smooth of new Set([0, view.smooth])) {
        if (this.layers.get(`${metric}\n${smooth}`)?.state === "ready") this.load([metric], smooth, [id]);
      }
    };
    this.again.set(key, setTimeout(reload, wait));
  }

  // A run begins anew, or we are too far behind: every series of it that is here is read again.
  reloadRun(id) {
    for (const [key, layer] of this.layers) {
      if (layer.state === "ready") this.loadSoon(key.slice(0, key.lastIndexOf("\n")), id, 0);
    }
  }

  // What was smoothed in another way is not wanted any more: the slider passes many values.
  forgetSmooth(but) {
    for (const held of [this.layers, this.windows]) {
      for (const key of held.keys()) {
        const smooth = Number(key.slice(key.lastIndexOf("\n") + 1));
        if (smooth && smooth !== but) held.delete(key);
      }
    }
  }

  // Everything is read again when it is wanted next: for another axis.
  clear() {
    this.layers.clear();
    this.windows.clear();
  }

  forget(id) {
    this.runs.delete(id);
    for (const layer of this.layers.values()) layer.series.delete(id);
    for (const fine of this.windows.values()) fine.series.delete(id);
  }
}

function decoded({ run, metric, step, x, value, total, returned, cursor, note }) {
  const steps = readColumn(step);
  const noAxis = Boolean(note) && total === 0 && ["epoch", "samples"].includes(view.x);
  return { run, metric, step: steps, x: x ? readColumn(x) : [...steps], value: readColumn(value), total, returned, cursor, noAxis };
}
