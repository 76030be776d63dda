// A scatter plot of two settings or results, a point a run.

import { colourOf, scaleOf, svg, textOf, tickText } from "./scale.js";

const HEIGHT = 330;
const MARGIN = { left: 74, right: 14, top: 12, bottom: 42 };

export class Scatter {
  // `hooks`: hover(run or null, event), open(run), keeps(run).
  constructor(place, hooks) {
    this.place = place;
    this.hooks = hooks;
    this.root = svg("svg", { class: "scatter", "aria-hidden": "true" });
    place.replaceChildren(this.root);
    this.root.addEventListener("pointermove", (event) => this.onMove(event));
    this.root.addEventListener("pointerleave", () => hooks.hover(null));
    this.root.addEventListener("click", () => this.near !== null && hooks.open(this.near));
    this.near = null;
    new ResizeObserver(() => this.data && this.draw(this.data)).observe(place);
  }

  draw(data) {
    this.data = data;
    const [x, y] = data.scatter.map((key) => data.columns.find((one) => one.key === key));
    if (!x || !y) return;
    this.pair = [x, y];
    const width = Math.max(this.place.clientWidth, 240);
    this.root.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.root.setAttribute("height", HEIGHT);
    const across = scaleOf(x, MARGIN.left, width - MARGIN.right, { log: data.logx });
    const up = scaleOf(y, HEIGHT - MARGIN.bottom, MARGIN.top, { log: data.logy });
    const colour = colourOf(data, data.colour);
    this.points = data.runs.map((run, i) => {
      if (x.values[i] === null || y.values[i] === null) return null;
      const point = svg("circle", {
        cx: across.toPixel(x.values[i]).toFixed(1), cy: up.toPixel(y.values[i]).toFixed(1), r: 4.5, class: "scatter-point",
      });
      point.style.fill = colour(i);
      return point;
    });
    this.root.replaceChildren(...this.grid(across, up, width), ...this.points.filter(Boolean));
    this.fade();
  }

  grid(across, up, width) {
    const [x, y] = this.pair;
    const bottom = HEIGHT - MARGIN.bottom;
    const parts = [];
    for (const tick of up.ticks) {
      const at = up.toPixel(tick);
      parts.push(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at, class: "grid-line" }));
      parts.push(svg("text", { x: MARGIN.left - 7, y: at + 3.5, class: "axis-tick end" }, tickText(y, tick, up.ticks).slice(0, 9)));
    }
    const most = Math.max(2, Math.floor((width - MARGIN.left) / 54));
    const every = Math.ceil(across.ticks.length / most);
    across.ticks.forEach((tick, i) => {
      const at = across.toPixel(tick);
      parts.push(svg("line", { x1: at, x2: at, y1: MARGIN.top, y2: bottom, class: "grid-line" }));
      if (i % every === 0) parts.push(svg("text", { x: at, y: bottom + 15, class: "axis-tick middle" }, tickText(x, tick, across.ticks).slice(0, 12)));
    });
    parts.push(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom, class: "axis-line" }));
    parts.push(svg("text", { x: (MARGIN.left + width) / 2, y: HEIGHT - 6, class: "axis-title" }, x.title));
    const middle = (MARGIN.top + bottom) / 2;
    parts.push(svg("text", { x: 11, y: middle, class: "axis-title", transform: `rotate(-90 11 ${middle})` }, y.title));
    return parts;
  }

  fade() {
    this.points?.forEach((point, i) => point?.classList.toggle("faded", !this.hooks.keeps(i)));
  }

  highlight(run) {
    this.points?.forEach((point, i) => {
      point?.classList.toggle("lit", i === run);
      point?.setAttribute("r", i === run ? 6.5 : 4.5);
    });
  }

  onMove(event) {
    const box = this.root.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let least = 14;
    this.near = null;
    this.points?.forEach((point, i) => {
      if (!point || !this.hooks.keeps(i)) return;
      const distance = Math.hypot(point.cx.baseVal.value - x, point.cy.baseVal.value - y);
      if (distance < least) [this.near, least] = [i, distance];
    });
    this.root.classList.toggle("pointing", this.near !== null);
    this.hooks.hover(this.near, event);
  }

  tip(run) {
    return this.pair.map((column) => `${column.title}: ${textOf(column, column.values[run])}`);
  }

  // Spearman's rank correlation over the runs that are kept and have both; null with fewer than four, or for names.
  correlation() {
    const [x, y] = this.pair ?? [];
    if (!x || x.labels || y.labels) return null;
    const both = this.data.runs.flatMap((run, i) =>
      x.values[i] !== null && y.values[i] !== null && this.hooks.keeps(i) ? [i] : []);
    if (both.length < 4) return null;
    const value = pearson(ranks(both.map((i) => x.values[i])), ranks(both.map((i) => y.values[i])));
    return Number.isFinite(value) ? { value, n: both.length } : null;
  }
}

// Ranks from 1, ties sharing the mean of theirs.
function ranks(values) {
  const order = values.map((_, i) => i).sort((a, b) => values[a] - values[b]);
  const found = new Array(values.length);
  for (let i = 0; i < order.length; ) {
    let end = i;
    while (end < order.length && values[order[end]] === values[order[i]]) end += 1;
    for (let k = i; k < end; k++) found[order[k]] = (i + end + 1) / 2;
    i = end;
  }
  return found;
}

function pearson(a, b) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [ma, mb] = [mean(a), mean(b)];
  const sum = (f) => a.reduce((total, _, i) => total + f(i), 0);
  return sum((i) => (a[i] - ma) * (b[i] - mb)) / Math.sqrt(sum((i) => (a[i] - ma) ** 2) * sum((i) => (b[i] - mb) ** 2));
}
