// Means over groups of runs, with a band; the server averages (app/groups.py), at a calm pace while runs train.

import { readColumn } from "./columns.js";
import { read } from "./reads.js";
import { isSmoothed } from "./lines.js";
import { pointsFor } from "./store.js";
import { isShown, view } from "./view.js";

const CALM_MS = 3000;

export class Groups {
  constructor(store, changed) {
    Object.assign(this, { store, changed });
    this.found = new Map(); // metric -> {state, asked, groups, window}
    this.dirty = new Set();
    this.timer = null;
  }

  // What an answer depends on; another one is asked for when it changes.
  key() {
    const runs = [...this.store.runs.keys()].filter(isShown);
    return JSON.stringify([runs, view.group, view.band, view.x, view.smooth]);
  }

  get(metric) {
    return this.found.get(metric)?.groups ?? [];
  }

  state(metric) {
    return this.found.get(metric)?.state ?? "new";
  }

  want(metric, window, again = false) {
    const held = this.found.get(metric);
    const asked = this.key() + JSON.stringify(window);
    if (!again && held?.asked === asked) return;
    held?.abort.abort();
    const abort = new AbortController();
    this.found.set(metric, { groups: held?.groups ?? [], state: held?.groups ? held.state : "loading", asked, abort });
    this.load(metric, window, asked, abort.signal);
  }

  async load(metric, window, asked, signal) {
    const runs = this.store.having([metric]).filter(isShown);
    const query = [
      ...runs.map((id) => ["run", id]),
      ...view.group.map((field) => ["by", field]),
      ["metric", metric],
      ["band", view.band],
      ["x", view.x],
      ["points", String(pointsFor(8))],
      ["format", "typed"],
    ];
    if (isSmoothed(metric)) query.push(["smooth", String(view.smooth)]);
    if (window) {
      const wide = (window.to - window.from) / 2;
      query.push(["from", String(window.from - wide)], ["to", String(window.to + wide)]);
    }
    try {
      const answer = runs.length ? await read("groups", query, signal) : { groups: [] };
      const held = this.found.get(metric);
      if (held?.asked === asked) Object.assign(held, { state: "ready", groups: answer.groups.map(decoded) });
    } catch (error) {
      if (error.name === "AbortError") return;
      const held = this.found.get(metric);
      if (held?.asked === asked) Object.assign(held, { state: held.groups.length ? "ready" : "failed" });
    }
    this.changed(metric);
  }

  // Live points of these metrics are here: read their means again before long.
  refreshSoon(metric, wanted) {
    if (!this.found.has(metric)) return;
    this.dirty.add(metric);
    this.timer ??= setTimeout(() => {
      this.timer = null;
      for (const one of this.dirty) wanted(one);
      this.dirty.clear();
    }, CALM_MS);
  }
}

function decoded({ key, runs, metric, step, x, mean, low, high, n, total, returned, note }) {
  const columns = { step: readColumn(step), mean: readColumn(mean), low: readColumn(low), high: readColumn(high), n: readColumn(n) };
  const noAxis = Boolean(note) && total === 0 && ["epoch", "samples"].includes(view.x);
  return { key, runs, metric, ...columns, x: x ? readColumn(x) : [...columns.step], total, returned, noAxis };
}
