// What lies over a chart and costs no redrawing: the crosshair, the values at it, and one line brought out.

import { nearest, shownX } from "./axes.js";
import { legendName, valueText } from "./captions.js";
import { count, duration, fill } from "./format.js";
import { view } from "./view.js";
import { words } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const ROWS = 10; // lines in the tip; the nearest to the pointer, when there are more
const FAR_PX = 24; // a line that ends further away has no value here

export class Overlay {
  constructor(chart) {
    Object.assign(this, { chart, svg: chart.parts.overlay, tip: chart.parts.tip, at: null, marked: null });
  }

  axes() {
    const layout = this.chart.drawn ? this.chart.plot._fullLayout : null;
    return layout ? [layout.xaxis, layout.yaxis] : [];
  }

  pixelX(axis, x) {
    return axis._offset + axis.d2p(shownX(view.x, x));
  }

  // The raw x under a point of the screen, or null outside the plot.
  xAt(clientX, clientY) {
    const [xaxis, yaxis] = this.axes();
    if (!xaxis) return null;
    const box = this.chart.plot.getBoundingClientRect();
    const [left, top] = [clientX - box.left - xaxis._offset, clientY - box.top - yaxis._offset];
    if (left < 0 || left > xaxis._length || top < 0 || top > yaxis._length) return null;
    const shown = xaxis.p2d(left);
    return { x: view.x === "time" ? new Date(String(shown).replace(" ", "T")).getTime() / 1000 : Number(shown), y: top };
  }

  // The nearest point of every line at x.
  valuesAt(x) {
    const [xaxis, yaxis] = this.axes();
    const here = this.pixelX(xaxis, x);
    return this.chart.lines.flatMap((line) => {
      if (!line.x.length) return [];
      const i = nearest(line.x, x);
      const left = this.pixelX(xaxis, line.x[i]);
      if (Math.abs(left - here) > FAR_PX && (i === 0 || i === line.x.length - 1)) return [];
      const value = line.value[i];
      const top = Number.isFinite(value) ? yaxis._offset + yaxis.d2p(value) : NaN;
      return [{ line, i, left, top, value }];
    });
  }

  // `pointer` is the height of the pointer in this chart, or null where it is over another one.
  show(x, pointer = null, told = null) {
    const [xaxis, yaxis] = this.axes();
    if (!xaxis) return null;
    this.at = { x, pointer };
    const left = this.pixelX(xaxis, x);
    if (!(left >= xaxis._offset - 1 && left <= xaxis._offset + xaxis._length + 1)) {
      this.hide();
      return null;
    }
    const values = this.valuesAt(x);
    const rows = chosenRows(values, pointer === null ? null : pointer + yaxis._offset, told);
    const dots = rows.filter((one) => Number.isFinite(one.top) && inside(one, xaxis, yaxis)).map((one) => dot(one));
    this.svg.replaceChildren(...this.markedPath(), crosshair(left, yaxis), ...dots);
    this.showTip(x, left, values, rows);
    return rows.map((one) => one.line.run.id);
  }

  showTip(x, left, values, rows) {
    const head = document.createElement("p");
    head.className = "tip-head";
    head.textContent = xText(x, rows[0]);
    const list = rows.map((one) => tipRow(one, this.chart.kind));
    const more = document.createElement("p");
    more.className = "muted";
    more.textContent = values.length > rows.length ? fill(words.more_lines, { n: values.length - rows.length }) : "";
    this.tip.replaceChildren(head, ...list, ...(more.textContent ? [more] : []));
    this.tip.hidden = !rows.length;
    const width = this.chart.plot.clientWidth;
    const onLeft = left > width * 0.55;
    this.tip.style.left = onLeft ? "auto" : `${left + 12}px`;
    this.tip.style.right = onLeft ? `${width - left + 12}px` : "auto";
  }

  hide() {
    this.at = null;
    this.tip.hidden = true;
    this.svg.replaceChildren(...this.markedPath());
  }

  // One run's line brought out of the others, while the legend points at it.
  mark(runs) {
    this.marked = runs;
    this.chart.frame.classList.toggle("chart-marking", Boolean(runs));
    this.svg.replaceChildren(...this.markedPath());
  }

  markedPath() {
    const [xaxis, yaxis] = this.axes();
    if (!this.marked || !xaxis) return [];
    return this.chart.lines
      .filter((line) => line.runs.some((run) => this.marked.includes(run)))
      .map((line) => {
        const path = document.createElementNS(SVG, "path");
        let pen = "M";
        const parts = [];
        line.x.forEach((x, i) => {
          const [left, top] = [this.pixelX(xaxis, x), yaxis._offset + yaxis.d2p(line.value[i])];
          if (!Number.isFinite(left) || !Number.isFinite(top)) {
            pen = "M";
            return;
          }
          parts.push(`${pen}${left.toFixed(1)} ${top.toFixed(1)}`);
          pen = "L";
        });
        path.setAttribute("d", parts.join(""));
        path.setAttribute("class", "marked-line");
        path.style.stroke = line.colour;
        path.style.clipPath = `inset(0)`;
        return path;
      });
  }

  redraw() {
    if (this.at) this.show(this.at.x, this.at.pointer);
    else this.svg.replaceChildren(...this.markedPath());
  }
}

const inside = (one, xaxis, yaxis) =>
  one.left >= xaxis._offset && one.left <= xaxis._offset + xaxis._length && one.top >= yaxis._offset && one.top <= yaxis._offset + yaxis._length;

// All lines in their order; of many those nearest to the pointer, or the same as in the chart under the pointer.
function chosenRows(values, pointerTop, told) {
  if (values.length <= ROWS) return values;
  if (pointerTop === null) {
    const chosen = told ? values.filter((one) => told.includes(one.line.run.id)) : values;
    return chosen.slice(0, ROWS);
  }
  const distance = (one) => (Number.isFinite(one.top) ? Math.abs(one.top - pointerTop) : Infinity);
  return [...values].sort((a, b) => distance(a) - distance(b)).slice(0, ROWS).sort((a, b) => a.top - b.top);
}

function tipRow({ line, i, value }, kind) {
  const row = document.createElement("p");
  row.className = "tip-row";
  const mark = document.createElement("span");
  mark.className = `swatch run-colour-${line.colourIndex}`;
  const name = document.createElement("bdi");
  name.textContent = legendName(line);
  const number = document.createElement("span");
  number.className = "tip-value";
  number.textContent = line.group && line.n[i] > 1 && Number.isFinite(line.high[i])
    ? fill(words.with_band, { value: valueText(value, kind), low: valueText(line.low[i], kind), high: valueText(line.high[i], kind), n: line.n[i] })
    : valueText(value, kind);
  row.append(mark, name, number);
  return row;
}

function xText(x, first) {
  const step = first ? fill(words.step, { step: count(first.line.step[first.i]) }) : "";
  if (view.x === "epoch") return `${fill(words.at_epoch, { epoch: x.toFixed(2) })} · ${step}`;
  if (view.x === "samples") return fill(words.at_samples, { n: count(Math.round(x)) });
  if (view.x === "elapsed") return duration(x);
  if (view.x === "time") return new Date(x * 1000).toLocaleTimeString(document.documentElement.lang || "en");
  return fill(words.step, { step: count(Math.round(x)) });
}

function crosshair(left, yaxis) {
  const line = document.createElementNS(SVG, "line");
  const ends = { x1: left, x2: left, y1: yaxis._offset, y2: yaxis._offset + yaxis._length };
  for (const [name, value] of Object.entries(ends)) line.setAttribute(name, value);
  line.setAttribute("class", "crosshair");
  return line;
}

function dot({ left, top, line }) {
  const circle = document.createElementNS(SVG, "circle");
  for (const [name, value] of Object.entries({ cx: left, cy: top, r: 3.5 })) circle.setAttribute(name, value);
  circle.setAttribute("class", "crosshair-dot");
  circle.style.fill = line.colour;
  return circle;
}
