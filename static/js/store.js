// The points of a page's runs: read reduced, extended live, read again when they grow too many or change behind us.

import { xOf } from "./axes.js";
import { API } from "./page.js";

const POINTS = 1000; // asked for a series
const MOST = 2000; // held of a series before it is read again, reduced
const RUNS_A_CALL = 20;

const key = (run, metric) => `${run}\n${metric}`;

export class Store {
  // `changed(metric)` is called after points of a metric have changed.
  constructor(runs, axis, changed) {
    this.runs = new Map(runs.map((run) => [run.id, run]));
    this.axis = axis;
    this.changed = changed;
    this.metrics = new Set(runs.flatMap((run) => run.metrics));
    this.series = new Map();
    this.cursors = {};
    this.waiting = new Map(); // run -> points that came while its series were being read
    this.again = new Map(); // run -> timer
    this.generation = 0;
  }

  get(run, metric) {
    return this.series.get(key(run, metric));
  }

  // Read every series of these runs anew.
  async load(ids = [...this.runs.keys()]) {
    const metrics = [...this.metrics];
    if (!metrics.length) return;
    const generation = this.generation;
    for (const id of ids) if (!this.waiting.has(id)) this.waiting.set(id, []);
    try {
      for (let i = 0; i < ids.length; i += RUNS_A_CALL) {
        const part = ids.slice(i, i + RUNS_A_CALL);
        const answer = await this.read(part, metrics);
        if (generation !== this.generation) return;
        for (const one of answer) this.put(one);
      }
    } finally {
      if (generation === this.generation) {
        for (const id of ids) {
          const held = this.waiting.get(id) ?? [];
          this.waiting.delete(id);
          this.add(held);
        }
      }
    }
    for (const metric of metrics) this.changed(metric);
  }

  async read(ids, metrics, window = null) {
    const query = new URLSearchParams([
      ...ids.map((id) => ["run", id]),
      ...metrics.map((metric) => ["metric", metric]),
      ["x", this.axis],
      ["points", String(POINTS)],
    ]);
    if (window) {
      query.set("from", String(window.from));
      query.set("to", String(window.to));
    }
    const answer = await fetch(`${API}/series?${query}`);
    if (!answer.ok) throw new Error(`series: ${answer.status}`);
    return (await answer.json()).series;
  }

  put(one) {
    this.series.set(key(one.run, one.metric), {
      step: one.step,
      x: one.x,
      value: one.value.map(Number), // "NaN" and "Infinity" travel as strings
      total: one.total,
      noAxis: Boolean(one.note) && one.total === 0 && (this.axis === "epoch" || this.axis === "samples"),
    });
    this.cursors[one.run] = Math.max(this.cursors[one.run] ?? 0, one.cursor);
  }

  // Points of the stream: `[{run, metric, step, time, value, cursor}]`.
  add(columns) {
    for (const column of columns) {
      const run = this.runs.get(column.run);
      if (!run) continue;
      if (this.waiting.has(column.run)) this.waiting.get(column.run).push(column);
      else this.extend(run, column);
    }
  }

  extend(run, column) {
    if (column.cursor <= (this.cursors[run.id] ?? 0) && this.get(run.id, column.metric)) return;
    this.metrics.add(column.metric);
    let one = this.get(run.id, column.metric);
    if (!one) {
      one = { step: [], x: [], value: [], total: 0, noAxis: false };
      this.series.set(key(run.id, column.metric), one);
    }
    let last = one.step.at(-1) ?? -1;
    if (column.step[0] <= last) {
      this.loadSoon(run.id); // a script rewrote earlier steps
      return;
    }
    for (let i = 0; i < column.step.length; i++) {
      const x = xOf(this.axis, run, column.step[i], column.time[i]);
      if (x === null) {
        one.noAxis = true;
        break;
      }
      last = Math.max(x, one.x.at(-1) ?? x);
      one.step.push(column.step[i]);
      one.x.push(last);
      one.value.push(Number(column.value[i]));
      one.total += 1;
    }
    if (one.step.length > MOST) this.loadSoon(run.id);
    this.changed(column.metric);
  }

  loadSoon(id, wait = 300) {
    if (this.again.has(id)) return;
    this.again.set(
      id,
      setTimeout(() => {
        this.again.delete(id);
        this.load([id]).catch(() => this.loadSoon(id, 3000));
      }, wait),
    );
  }

  // Another x axis: everything is read again.
  async setAxis(axis) {
    this.axis = axis;
    this.generation += 1;
    this.series.clear();
    this.cursors = {};
    this.waiting.clear();
    await this.load();
  }

  forget(id) {
    this.runs.delete(id);
    for (const metric of this.metrics) this.series.delete(key(id, metric));
    for (const metric of this.metrics) this.changed(metric);
  }
}
