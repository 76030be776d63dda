// Scales of the small drawings: values to pixels and back, ticks, texts, colours.

import { number, percent } from "./format.js";
import { words } from "./words.js";

const NICE = [1, 2, 2.5, 5, 10];
const FEW = 7; // so many different values are ticks themselves

// The pixels of a column's values between `from` and `to`; what has no value lies at `missing`.
export function scaleOf(column, from, to, { log = column.log, margin = 0.04 } = {}) {
  const known = column.values.filter((value) => value !== null);
  let [low, high] = [Math.min(...known), Math.max(...known)];
  log = log && low > 0;
  if (column.labels) [low, high, margin] = [0, column.labels.length - 1, 0.08];
  const bend = log ? Math.log10 : (value) => value;
  let [first, last] = [bend(low), bend(high)];
  const room = last === first ? 0.5 : (last - first) * margin;
  first -= room;
  last += room;
  const toPixel = (value) => from + ((bend(value) - first) / (last - first)) * (to - from);
  const back = (pixel) => {
    const value = first + ((pixel - from) / (to - from)) * (last - first);
    return log ? 10 ** value : value;
  };
  return { toPixel, back, log, ticks: column.labels ? column.labels.map((_, i) => i) : (fewOf(known, toPixel) ?? ticksOf(low, high, log)) };
}

// The values themselves, where they are few and far enough from each other.
function fewOf(known, toPixel) {
  const values = [...new Set(known)].sort((a, b) => a - b);
  if (values.length > FEW) return null;
  const pixels = values.map(toPixel);
  return pixels.every((pixel, i) => i === 0 || Math.abs(pixel - pixels[i - 1]) >= 14) ? values : null;
}

function ticksOf(low, high, log) {
  if (low === high) return [low];
  if (log && high / low > 30) {
    const ticks = [];
    for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) ticks.push(10 ** power);
    if (ticks.length > 1) return ticks;
  }
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * NICE.find((factor) => factor * unit >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

export function textOf(column, value) {
  if (value === null) return "–";
  if (column.labels) return column.labels[value];
  return column.share ? percent(value) : number(value);
}

// Short, for a tick: as many digits as tell it from its neighbours.
export function tickText(column, value, ticks = [value]) {
  if (column.labels) return column.labels[value];
  const scaled = column.share ? ticks.map((tick) => tick * 100) : ticks;
  const own = column.share ? value * 100 : value;
  const distinct = (digits) => new Set(scaled.map((tick) => tick.toPrecision(digits))).size === new Set(scaled).size;
  const digits = [column.share ? 4 : 3, 5, 6, 7].find(distinct) ?? 7;
  if (column.share) return words.percent.replace("{n}", String(Number(own.toPrecision(digits))));
  const size = Math.abs(own);
  if (own !== 0 && (size < 1e-3 || size >= 1e5)) return own.toExponential(0).replace("e+", "e");
  return String(Number(own.toPrecision(digits)));
}

const RUN_COLOURS = 8;

// A colour a run: its own, or, by a column, from the scale of the theme with the better end strong.
export function colourOf(data, key) {
  const column = data.columns.find((one) => one.key === key);
  if (!column) return (i) => `var(--run-${data.runs[i].colour})`;
  if (column.labels) return (i) => (column.values[i] === null ? "var(--muted)" : `var(--run-${column.values[i] % RUN_COLOURS})`);
  const { toPixel } = scaleOf(column, 0, 100, { margin: 0 });
  return (i) => {
    if (column.values[i] === null) return "var(--muted)";
    const share = Math.round(toPixel(column.values[i]));
    return `color-mix(in oklab, var(--scale-high) ${column.better === "lower" ? 100 - share : share}%, var(--scale-low))`;
  };
}

export function svg(name, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}
