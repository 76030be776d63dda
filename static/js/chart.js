// One chart: its frame, its legend, its note, and Plotly inside. Drawn at most a few times a second.

import { rawX } from "./axes.js";
import { count, fill } from "./format.js";
import { layoutOf } from "./layout.js";
import { merged, tracesOf } from "./traces.js";
import { words } from "./words.js";

const CONFIG = { displayModeBar: false, responsive: false, doubleClick: "autosize", showTips: false };
const STUCK_STEPS = 150;

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

function legendItem(name, text, dashes) {
  const item = make("li", name);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M1 4H21");
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "2");
  if (dashes) path.setAttribute("stroke-dasharray", dashes);
  svg.append(path);
  item.append(svg, make("bdi", "", text));
  return item;
}

export class Chart {
  // `lines` gives [{run, metric, name, colour}] as they are now; `metrics` names what is drawn here.
  constructor(parent, { title, metrics, lines, store, look }) {
    Object.assign(this, { title, metrics, lines, store, look });
    this.fine = new Map();
    this.window = null;
    this.height = null;
    this.frame = make("article", "chart");
    this.frame.setAttribute("aria-label", title);
    const head = make("div", "chart-head");
    this.note = make("span", "chart-note", words.loading);
    head.append(make("h2", "", title), this.note);
    this.legend = make("ul", "legend");
    this.hint = make("p", "chart-hint");
    this.hint.hidden = true;
    this.plot = make("div", "chart-plot");
    this.frame.append(head, this.legend, this.plot, this.hint);
    parent.append(this.frame);
    new ResizeObserver(() => this.drawn && window.Plotly.Plots.resize(this.plot)).observe(this.plot);
  }

  series() {
    return this.lines(this.metrics).flatMap((line) => {
      const one = this.store.get(line.run.id, line.metric);
      return one ? [{ line, one: merged(one, this.fine.get(`${line.run.id}\n${line.metric}`)), whole: one }] : [];
    });
  }

  async draw(tokens) {
    const found = this.series();
    const look = { ...this.look(), accuracy: this.metrics.every((metric) => metric.endsWith("accuracy")) };
    look.faint = this.metrics.length > 1;
    look.fromZero = this.metrics.includes("train/lr");
    const traces = found.flatMap(({ line, one }) => tracesOf(one, line, look));
    const chance = this.chanceLevel(found);
    const layout = layoutOf(tokens, look, chance, this.heightOf(found));
    await window.Plotly.react(this.plot, traces, layout, CONFIG);
    if (!this.drawn) {
      this.drawn = true;
      this.plot.on("plotly_relayout", (change) => this.onZoom(change));
    }
    this.showLegend(found, chance);
    this.showNote(found);
    this.showHint(found, chance);
  }

  // The ends of y: as zoomed by hand, or what the zoomed window holds; null leaves it to Plotly.
  heightOf(found) {
    if (this.height || !this.window) return this.height;
    const { from, to } = this.window;
    let [low, high] = [Infinity, -Infinity];
    for (const { one } of found) {
      for (let i = 0; i < one.x.length; i++) {
        if (one.x[i] < from || one.x[i] > to || !Number.isFinite(one.value[i])) continue;
        low = Math.min(low, one.value[i]);
        high = Math.max(high, one.value[i]);
      }
    }
    if (low > high) return null;
    const margin = (high - low || Math.abs(high) || 1) * 0.06;
    return [low - margin, high + margin];
  }

  // ln(classes), where the curves come near it; guessing among ten classes costs ln 10.
  chanceLevel(found) {
    const classes = found[0]?.line.run.classes;
    if (!classes || !this.metrics.every((metric) => metric.endsWith("loss"))) return null;
    const value = Math.log(classes);
    const near = found.some(({ one }) => one.value.some((loss) => loss > 0.75 * value));
    return near ? { classes, value } : null;
  }

  // Named lines, and the level of chance; beside the chart, so that no label covers a point.
  showLegend(found, chance) {
    const named = found.length > 1 && found.length <= 12 ? found : [];
    const key = [...named.map(({ line }) => line.name + line.colour), chance?.value].join("|");
    this.legend.hidden = !named.length && !chance;
    if (key === this.legendKey) return;
    this.legendKey = key;
    const items = named.map(({ line }) =>
      legendItem(`run-colour-${line.run.colour}`, line.name, line.metric.startsWith("val/") ? "5 3" : null),
    );
    if (chance) {
      const text = fill(words.chance, { classes: chance.classes, value: chance.value.toFixed(3) });
      items.push(legendItem("legend-chance", text, "1.5 2.5"));
    }
    this.legend.replaceChildren(...items);
  }

  showNote(found) {
    const lost = found.filter(({ one }) => one.noAxis).map(({ line }) => line.name);
    const shown = found.reduce((sum, { one }) => sum + one.step.length, 0);
    const total = found.reduce((sum, { whole }) => sum + whole.total, 0);
    const text = shown < total ? words.points_reduced : words.points_all;
    const parts = [fill(text, { shown: count(shown), total: count(total) })];
    if (this.window) parts.unshift(words.zoomed);
    if (lost.length) parts.unshift(fill(words.no_axis, { names: lost.join(", ") }));
    this.note.textContent = parts.join(" · ");
  }

  showHint(found, chance) {
    const stuck = found.filter(({ line, one }) => {
      if (!chance || line.metric !== "train/loss" || (one.step.at(-1) ?? 0) < STUCK_STEPS) return false;
      const last = one.value.slice(-50);
      const mean = last.reduce((sum, value) => sum + value, 0) / last.length;
      return Math.abs(mean - chance.value) < 0.02 * chance.value;
    });
    const names = this.metrics.length > 1 || found.length < 2 ? "" : `${stuck.map(({ line }) => line.name).join(", ")}: `;
    this.hint.hidden = stuck.length === 0;
    this.hint.textContent = names + words.stuck;
  }

  onZoom(change) {
    if (change["yaxis.range[0]"] !== undefined) this.height = [...this.plot.layout.yaxis.range];
    else if (change["xaxis.range[0]"] !== undefined) this.height = null;
    if (change["xaxis.autorange"]) {
      this.forgetZoom();
      this.changed();
    } else if (change["xaxis.range[0]"] !== undefined || change["xaxis.range"]) {
      const ends = this.plot.layout.xaxis.range.map((x) => rawX(this.look().axis, x));
      this.window = { from: Math.min(...ends), to: Math.max(...ends) };
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.readWindow(this.window), 120);
    }
  }

  // The zoomed window again, at the full number of points.
  async readWindow(asked) {
    const ids = [...new Set(this.lines(this.metrics).map((line) => line.run.id))];
    try {
      const answer = await this.store.read(ids, this.metrics, asked);
      if (asked !== this.window) return;
      this.fine = new Map(
        answer.map((one) => [`${one.run}\n${one.metric}`, { ...one, value: one.value.map(Number) }]),
      );
      this.changed();
    } catch {
      this.note.textContent = words.unreachable;
    }
  }

  forgetZoom() {
    this.window = null;
    this.height = null;
    this.fine.clear();
  }
}
