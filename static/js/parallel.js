// Parallel coordinates: an axis a setting or result, a line a run. Dragging along an axis keeps the runs in between.

import { fill } from "./format.js";
import { colourOf, scaleOf, svg, textOf, tickText } from "./scale.js";
import { words } from "./words.js";

const HEIGHT = 344;
const TOP = 56;
const BOTTOM = 12;
const MISSING = 30; // below the axes, where there is something without a value
const LINE = 13;
const SIDE = 60;
const PER_AXIS = 92;
const NEAR = 5; // a shorter drag than this is a click

export class Parallel {
  // `hooks`: hover(run or null, event), open(run), brushed().
  constructor(place, hooks) {
    this.place = place;
    this.hooks = hooks;
    this.brushes = new Map(); // key -> [low, high]
    this.root = svg("svg", { class: "parallel", "aria-hidden": "true" });
    place.replaceChildren(this.root);
    this.root.addEventListener("pointerdown", (event) => this.startBrush(event));
    this.root.addEventListener("pointermove", (event) => this.onMove(event));
    this.root.addEventListener("pointerleave", () => hooks.hover(null));
    this.root.addEventListener("click", (event) => event.target.dataset.run && hooks.open(Number(event.target.dataset.run)));
    new ResizeObserver(() => this.data && this.draw(this.data)).observe(place);
  }

  draw(data) {
    this.data = data;
    this.columns = data.axes.map((key) => data.columns.find((one) => one.key === key)).filter(Boolean);
    for (const key of this.brushes.keys()) if (!data.axes.includes(key)) this.brushes.delete(key);
    const width = Math.max(this.place.clientWidth, this.columns.length * PER_AXIS, 240);
    this.root.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.root.setAttribute("width", width);
    this.root.setAttribute("height", HEIGHT);
    this.bottom = HEIGHT - BOTTOM - (this.columns.some(({ values }) => values.includes(null)) ? MISSING : 0);
    const gap = (width - 2 * SIDE) / Math.max(this.columns.length - 1, 1);
    this.axes = this.columns.map((column, i) => ({
      column,
      x: this.columns.length === 1 ? width / 2 : SIDE + i * gap,
      scale: scaleOf(column, this.bottom, TOP, { margin: 0.02 }),
    }));
    this.lines = this.drawLines(data);
    this.root.replaceChildren(...this.lines, ...this.axes.map((axis) => this.axisOf(axis, gap)));
    this.fade();
  }

  drawLines(data) {
    const colour = colourOf(data, data.colour);
    return data.runs.map((run, i) => {
      const points = this.axes.map(({ x, column, scale }) => {
        const value = column.values[i];
        return `${x.toFixed(1)},${(value === null ? HEIGHT - BOTTOM : scale.toPixel(value)).toFixed(1)}`;
      });
      const line = svg("polyline", { points: points.join(" "), class: "parallel-line", "data-run": i });
      line.style.stroke = colour(i);
      return line;
    });
  }

  axisOf({ column, x, scale }, gap) {
    const group = svg("g", { class: "axis", "data-key": column.key, transform: `translate(${x.toFixed(1)} 0)` });
    group.append(svg("line", { y1: TOP, y2: this.bottom, class: "axis-line" }));
    for (const tick of scale.ticks) {
      const y = scale.toPixel(tick);
      group.append(svg("text", { x: 7, y: y + 3.5, class: "axis-tick" }, shorten(tickText(column, tick, scale.ticks), gap)));
      group.append(svg("line", { x1: -3, x2: 3, y1: y, y2: y, class: "axis-line" }));
    }
    linesOf(column.title, Math.min(gap, 2 * SIDE)).forEach((line, i) =>
      group.append(svg("text", { y: LINE * (i + 1), class: "axis-title" }, line)));
    if (scale.log) group.append(svg("text", { y: TOP - 17, class: "axis-note" }, words.log_axis));
    const brush = this.brushes.get(column.key);
    if (brush) {
      const [top, bottom] = brush.map(scale.toPixel).sort((a, b) => a - b);
      group.append(svg("rect", { x: -9, width: 18, y: top, height: Math.max(bottom - top, 2), class: "brush" }));
    }
    group.append(svg("title", {}, column.title));
    group.append(svg("rect", { x: -14, width: 28, y: TOP - 8, height: this.bottom - TOP + 16, class: "axis-grip" }));
    return group;
  }

  // Whether a run lies in every brush.
  keeps(i) {
    return this.axes.every(({ column }) => {
      const brush = this.brushes.get(column.key);
      const value = column.values[i];
      return !brush || (value !== null && value >= brush[0] && value <= brush[1]);
    });
  }

  kept() {
    return this.data.runs.flatMap((run, i) => (this.keeps(i) ? [i] : []));
  }

  fade() {
    this.lines.forEach((line, i) => line.classList.toggle("faded", !this.keeps(i)));
  }

  highlight(run) {
    this.lines?.forEach((line, i) => line.classList.toggle("lit", i === run));
    if (run !== null && this.lines?.[run]) this.root.insertBefore(this.lines[run], this.root.querySelector(".axis"));
  }

  at(event) {
    const box = this.root.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  startBrush(event) {
    const grip = event.target.closest(".axis");
    if (!grip) return;
    event.preventDefault();
    const axis = this.axes.find(({ column }) => column.key === grip.dataset.key);
    const from = this.at(event).y;
    const drag = (move) => {
      const to = this.at(move).y;
      if (Math.abs(to - from) < NEAR) this.brushes.delete(axis.column.key);
      else this.brushes.set(axis.column.key, [axis.scale.back(from), axis.scale.back(to)].sort((a, b) => a - b));
      this.draw(this.data);
    };
    const stop = (end) => {
      window.removeEventListener("pointermove", drag);
      drag(end);
      this.hooks.brushed();
    };
    window.addEventListener("pointermove", drag);
    window.addEventListener("pointerup", stop, { once: true });
  }

  // The line next to the pointer, within a few pixels.
  onMove(event) {
    if (!this.axes?.length || event.buttons) return;
    const { x, y } = this.at(event);
    const right = Math.max(1, this.axes.findIndex((axis) => axis.x >= x));
    const [a, b] = [this.axes[right - 1], this.axes[right] ?? this.axes[right - 1]];
    const share = b.x === a.x ? 0 : (x - a.x) / (b.x - a.x);
    let [nearest, least] = [null, 8];
    this.data.runs.forEach((run, i) => {
      if (!this.keeps(i)) return;
      const [left, end] = [a, b].map(({ column, scale }) =>
        column.values[i] === null ? HEIGHT - BOTTOM : scale.toPixel(column.values[i]));
      const distance = Math.abs(left + share * (end - left) - y);
      if (distance < least) [nearest, least] = [i, distance];
    });
    this.hooks.hover(nearest, event);
  }

  tip(run) {
    return this.columns.map((column) => `${column.title}: ${textOf(column, column.values[run])}`);
  }
}

// A title in at most two lines.
function linesOf(title, room) {
  const most = Math.floor(room / 6.9);
  const cut = title.length > most ? title.lastIndexOf(" ", most) : -1;
  return cut > 0 ? [title.slice(0, cut), shorten(title.slice(cut + 1), room)] : [shorten(title, room)];
}

function shorten(text, room) {
  const most = Math.max(6, Math.floor(room / 6.9));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

export const keptText = (kept, all) => fill(words.runs_kept, { n: kept, all });
