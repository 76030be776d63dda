// One chart: its frame (a template of the page), its states, and Plotly inside while it is near the screen.

import { isLogX, rawRange } from "./axes.js";
import { chanceLevel, heightOf, hintOf, kindOf, legendName, noteOf, summaryOf } from "./captions.js";
import { fill } from "./format.js";
import { groupLines, isSmoothed, runLines } from "./lines.js";
import { CONFIG, layoutOf } from "./layout.js";
import { Overlay } from "./overlay.js";
import { legendItem } from "./marks.js";
import { plotly } from "./plotly.js";
import { memberTrace, tracesOf } from "./traces.js";
import { setView, toggled, view } from "./view.js";
import { words } from "./words.js";

const FINE_MS = 150; // a zoom has to stand still for this long before its window is read
const MOST_MEMBERS = 60;
const MOST_NAMED = 24;

export class Chart {
  // `page` is what all charts share: {store, groups, grouping, tokens(), single, nameOf, dragmode(), plan(chart), slide}.
  constructor(title, metrics, page) {
    Object.assign(this, { title, metrics, page, near: false, drawn: false, dragging: false, lines: [] });
    this.frame = document.querySelector("[data-chart-template]").content.firstElementChild.cloneNode(true);
    const part = (name) => this.frame.querySelector(`[data-part="${name}"]`);
    this.parts = Object.fromEntries(["title", "note", "legend", "plot", "overlay", "tip", "state", "hint", "summary", "told"].map((name) => [name, part(name)]));
    this.parts.title.textContent = title;
    this.plot = this.parts.plot;
    this.plot.setAttribute("aria-label", fill(words.chart_label, { title }));
    this.overlay = new Overlay(this);
    this.plot.addEventListener("pointerdown", (event) => this.beforeDrag(event), true);
    this.frame.querySelector('[data-act="retry"]').addEventListener("click", () => this.want({ again: true }));
    new ResizeObserver(() => this.drawn && !this.dragging && this.plot.clientWidth > 0 && this.resize()).observe(this.plot);
  }

  get kind() {
    return kindOf(this.metrics);
  }

  get log() {
    return this.metrics.some((metric) => view.log.includes(metric));
  }

  resize() {
    window.Plotly.Plots.resize(this.plot);
  }

  // The window of y that was chosen by hand.
  get chosenHeight() {
    const prefix = `${this.metrics[0]},`;
    const text = view.ylim.find((one) => one.startsWith(prefix));
    return text ? text.slice(prefix.length).split(",").map(Number) : null;
  }

  chooseHeight(range) {
    const others = view.ylim.filter((one) => !one.startsWith(`${this.metrics[0]},`));
    const digits = (end) => Number(end.toPrecision(7));
    setView({ ylim: range ? [...others, `${this.metrics[0]},${range.map(digits).join(",")}`] : others });
  }

  // -- points --------------------------------------------------------------------------------------------------------

  // Asks for the points that this chart needs now; drawing follows when they are here.
  want({ again = false, live = false } = {}) {
    const { store } = this.page;
    if (again) store.retry(this.metrics);
    if (view.group.length) this.wantGroups(this.metrics, again);
    if (!view.group.length || view.members) {
      store.want(this.metrics);
      const reduced = this.metrics.filter((metric) => isSmoothed(metric) && this.isReduced(metric));
      if (reduced.length && !view.group.length) store.want(reduced, view.smooth);
      this.wantWindow(this.window);
    }
    this.page.plan(this, !live);
  }

  wantGroups(metrics, again) {
    for (const metric of metrics) this.page.groups.want(metric, this.window, again);
  }

  get window() {
    return view.zoom && { from: view.zoom[0], to: view.zoom[1] };
  }

  isReduced(metric) {
    const layer = this.page.store.layer(metric);
    return layer.state === "ready" && [...layer.series.values()].some((one) => one.returned < one.total);
  }

  // The zoomed window again, at the full number of points; what is on its way for another window is dropped.
  wantWindow(window) {
    const key = JSON.stringify([window, view.smooth, view.x]);
    const ready = this.metrics.every((metric) => this.page.store.state(metric) === "ready");
    if (!ready || key === this.fineKey) return;
    this.fineKey = key;
    clearTimeout(this.timer);
    this.reading?.abort();
    this.reading = new AbortController();
    const { signal } = this.reading;
    this.timer = setTimeout(() => this.readWindow(window, signal), window ? FINE_MS : 0);
  }

  async readWindow(window, signal) {
    const { store } = this.page;
    try {
      for (const smooth of new Set([0, view.smooth])) {
        const metrics = this.metrics.filter((metric) => !smooth || (isSmoothed(metric) && this.isReduced(metric)));
        const lacking = metrics.filter((metric) => !window || !store.hasWindow(metric, smooth, window));
        if (lacking.length) await store.readWindow(lacking, smooth, window, signal);
      }
      this.page.plan(this);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.fineKey = null;
      this.parts.note.textContent = words.unreachable;
    }
  }

  // loading, failed, empty or ready
  get state() {
    const { store, groups } = this.page;
    const states = this.metrics.map((metric) => (view.group.length ? groups : store).state(metric));
    if (states.every((state) => state === "failed")) return "failed";
    if (states.some((state) => state === "ready")) return this.lines.some((line) => line.x.length) ? "ready" : "empty";
    return "loading";
  }

  // -- drawing -------------------------------------------------------------------------------------------------------

  async draw() {
    this.lines = this.currentLines();
    const state = this.state;
    this.frame.dataset.state = state;
    this.frame.setAttribute("aria-busy", String(state === "loading"));
    this.parts.state.textContent = { failed: words.unreachable, empty: this.whyEmpty(), loading: "" }[state] ?? "";
    this.showWords(state);
    if (state === "loading" || state === "failed") return;
    const library = await plotly;
    if (!library) this.parts.note.textContent = words.no_plotly;
    if (!library || !this.near || this.dragging) return;
    const tokens = this.page.tokens();
    const faint = this.metrics.length > 1;
    const members = view.group.length && view.members ? this.memberTraces(tokens) : [];
    const traces = [...members, ...this.lines.flatMap((line) => tracesOf(line, { faint, lines: this.lines.length }))];
    const height = this.chosenHeight ?? heightOf(this.lines, this.log);
    const layout = layoutOf(tokens, {
      kind: this.kind, chance: this.chance, height: this.log && height?.[0] <= 0 ? null : height,
      log: this.log, dragmode: this.page.dragmode(),
    });
    await library.react(this.plot, traces, layout, CONFIG);
    this.slideBack();
    if (!this.drawn) this.listen();
    this.drawn = true;
    this.overlay.redraw();
  }

  currentLines() {
    const { store, groups, grouping, single, nameOf } = this.page;
    const tokens = this.page.tokens();
    if (view.group.length) return groupLines(store, groups, this.metrics, { tokens, grouping });
    return runLines(store, this.metrics, { single, tokens, nameOf: (run, metric) => nameOf(run, metric, this.metrics) });
  }

  memberTraces(tokens) {
    const { store, single, nameOf } = this.page;
    const colours = new Map(this.lines.flatMap((line) => line.runs.map((run) => [run, line.colour])));
    const found = runLines(store, this.metrics, { single, tokens, nameOf: (run, metric) => nameOf(run, metric, this.metrics) });
    return found.slice(0, MOST_MEMBERS).map((line) => memberTrace(line, colours.get(line.run.id) ?? line.colour));
  }

  showWords(state) {
    this.chance = chanceLevel(this.lines, this.kind);
    this.parts.note.textContent = state === "ready" ? noteOf(this.lines, this.log) : state === "loading" ? words.loading : "";
    this.parts.summary.textContent = summaryOf(this.title, this.lines, this.kind);
    const hint = hintOf(this.lines, this.chance, this.lines.length > 1 && this.metrics.length === 1);
    this.parts.hint.hidden = !hint;
    this.parts.hint.textContent = hint;
    this.frame.querySelector('[data-act="log"]').setAttribute("aria-pressed", String(this.log));
    this.showLegend();
  }

  whyEmpty() {
    const lost = this.lines.length && this.lines.every((line) => line.noAxis);
    if (lost) return fill(words.no_axis, { names: this.lines.slice(0, 3).map((line) => line.name).join(", ") });
    return view.only.length || view.hide.length ? words.all_hidden : words.empty;
  }

  // Beside the chart, so that no label covers a point. On a comparison one legend serves all charts but the full one.
  showLegend() {
    const alone = this.page.single || this.frame.closest("dialog");
    const named = alone && this.lines.length > 1 ? this.lines.slice(0, MOST_NAMED) : [];
    const key = JSON.stringify([named.map((line) => [legendName(line), line.colour]), this.chance?.value]);
    if (key === this.legendKey) return;
    this.legendKey = key;
    const items = named.map((line) => legendItem(`run-colour-${line.colourIndex}`, legendName(line), line.dash));
    if (this.chance) {
      const text = fill(words.chance, { classes: this.chance.classes, value: this.chance.value.toFixed(3) });
      items.push(legendItem("legend-chance", text, "dot"));
    }
    this.parts.legend.hidden = !items.length;
    this.parts.legend.replaceChildren(...items);
  }

  // Near the screen it is drawn.
  enter() {
    this.near = true;
    this.want();
  }

  // What the crosshair says, aloud: the arrow keys moved it.
  tell() {
    this.parts.told.textContent = [...this.parts.tip.children].map((row) => row.textContent).join("; ");
  }

  // Far from the screen a chart keeps its place and its points, and gives its picture back.
  leave() {
    this.near = false;
    if (!this.drawn) return;
    this.overlay.hide();
    window.Plotly.purge(this.plot);
    this.plot.classList.remove("js-plotly-plot");
    this.drawn = false;
  }

  // -- zoom ----------------------------------------------------------------------------------------------------------

  listen() {
    this.plot.on("plotly_relayouting", (change) => {
      this.dragging = true;
      this.overlay.hide();
      if (change["xaxis.range[0]"] !== undefined) this.page.slide.move(this, this.rangeNow());
    });
    this.plot.on("plotly_relayout", (change) => this.onRelayout(change));
    this.plot.on("plotly_doubleclick", () => this.resetZoom());
  }

  // Moving goes sideways, unless y was zoomed too: otherwise y fits what the window holds. Shift swaps moving and zooming.
  beforeDrag(event) {
    if (!this.drawn) return;
    this.moves = (this.page.dragmode() === "pan") !== event.shiftKey;
    this.plot._fullLayout.yaxis.fixedrange = this.moves && !this.chosenHeight;
  }

  rangeNow() {
    const { range } = this.plot._fullLayout.xaxis;
    return rawRange(view.x, isLogX(view), range);
  }

  onRelayout(change) {
    this.dragging = false;
    this.page.slide.end();
    const sideways = change["xaxis.range[0]"] !== undefined;
    const upwards = change["yaxis.range[0]"] !== undefined;
    if (upwards && (!this.moves || this.chosenHeight)) {
      const { range } = this.plot._fullLayout.yaxis;
      this.chooseHeight(this.log ? range.map((end) => 10 ** end) : range);
    }
    if (sideways) setView({ zoom: this.rangeNow() });
    if (sideways || upwards) this.page.plan(this);
  }

  resetZoom() {
    this.dragging = false;
    this.chooseHeight(null);
    setView({ zoom: null });
    this.page.plan(this);
  }

  toggleLog() {
    let log = view.log;
    const on = !this.log;
    for (const metric of this.metrics) log = toggled(log, metric, on);
    setView({ log });
    this.chooseHeight(null);
  }

  // While another chart is dragged: the lines move, nothing is computed anew. The axis follows when the drag ends.
  slide(window) {
    if (!this.drawn) return;
    const axis = this.plot._fullLayout.xaxis;
    const [left, right] = window.map((x) => axis.d2p(axis.type === "date" ? x * 1000 - new Date(x * 1000).getTimezoneOffset() * 60_000 : x));
    const scale = axis._length / (right - left);
    const move = `translate(${-left * scale} 0) scale(${scale} 1)`;
    if (!Number.isFinite(scale)) return;
    for (const layer of this.plot.querySelectorAll(".cartesianlayer .plot > .scatterlayer")) layer.setAttribute("transform", move);
    this.slid = true;
  }

  slideBack() {
    if (!this.slid) return;
    for (const layer of this.plot.querySelectorAll(".cartesianlayer .plot > .scatterlayer")) layer.removeAttribute("transform");
    this.slid = false;
  }
}
