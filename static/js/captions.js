// What a chart says in words: how many points it shows, what it cannot show, and a summary for who does not see it.

import { count, fill, number, percent } from "./format.js";
import { memberCount } from "./lines.js";
import { view } from "./view.js";
import { words } from "./words.js";

const STUCK_STEPS = 150;
const NAMED = 12; // lines that a summary names

export const kindOf = (metrics) =>
  metrics.every((metric) => /accuracy$/.test(metric)) ? "accuracy"
    : metrics.every((metric) => /loss$/.test(metric)) ? "loss"
      : metrics.some((metric) => /(^|\/)lr$/.test(metric)) ? "lr" : "other";

export const valueText = (value, kind) => (!Number.isFinite(value) ? String(value) : kind === "accuracy" ? percent(value) : number(value));

// "1,000 of 90,000 points, extremes kept"; before it what this view leaves out.
export function noteOf(lines, log) {
  const lost = [...new Set(lines.filter((line) => line.noAxis).map((line) => line.name))];
  const parts = [];
  if (lost.length) parts.push(fill(words.no_axis, { names: shortList(lost) }));
  const nothing = lines.filter((line) => line.x.length && !line.value.some(Number.isFinite)).map((line) => line.name);
  if (nothing.length) parts.push(fill(words.only_nan, { names: shortList(nothing) }));
  if (log && lines.some((line) => line.value.some((value) => value <= 0))) parts.push(words.not_on_log);
  const whole = lines.reduce((sum, line) => sum + line.total, 0);
  const shown = Math.min(whole, lines.reduce((sum, line) => sum + line.shown, 0));
  const text = shown < whole ? words.points_reduced : words.points_all;
  parts.push(fill(text, { shown: count(shown), total: count(whole) }));
  return parts.join(" · ");
}

function shortList(names) {
  return names.length > 4 ? fill(words.and_more, { names: names.slice(0, 3).join(", "), n: names.length - 3 }) : names.join(", ");
}

// For screen readers: how each line ends, and its best.
export function summaryOf(title, lines, kind) {
  const told = lines.slice(0, NAMED).map((line) => {
    const finite = line.value.filter(Number.isFinite);
    if (!finite.length) return fill(words.summary_empty, { name: line.name });
    const best = finite.reduce((a, b) => (kind === "accuracy" ? Math.max(a, b) : Math.min(a, b)));
    const text = kind === "accuracy" ? words.summary_highest : words.summary_lowest;
    return fill(text, { name: line.name, last: valueText(finite.at(-1), kind), best: valueText(best, kind) });
  });
  if (lines.length > NAMED) told.push(fill(words.summary_more, { n: lines.length - NAMED }));
  return [fill(words.summary, { title, n: lines.length }), ...told].join(" ");
}

// ln(classes), where the curves come near it; guessing among ten classes costs ln 10.
export function chanceLevel(lines, kind) {
  const classes = lines[0]?.run.classes;
  if (!classes || kind !== "loss" || lines.some((line) => line.run.classes !== classes)) return null;
  const value = Math.log(classes);
  return lines.some((line) => line.value.some((loss) => loss > 0.75 * value)) ? { classes, value } : null;
}

export function hintOf(lines, chance, several) {
  const stuck = lines.filter((line) => {
    if (!chance || line.metric !== "train/loss" || line.group || (line.step.at(-1) ?? 0) < STUCK_STEPS) return false;
    const last = line.value.slice(-50).filter(Number.isFinite);
    const mean = last.reduce((sum, value) => sum + value, 0) / last.length;
    return Math.abs(mean - chance.value) < 0.02 * chance.value;
  });
  if (!stuck.length) return "";
  return (several ? `${shortList(stuck.map((line) => line.name))}: ` : "") + words.stuck;
}

// In a legend: a group says of how many runs it is the mean.
export const legendName = (line) => (line.group ? fill(words.group_of, { name: line.name, n: memberCount(line) }) : line.name);

// The ends of y over the window of x, with a margin; null leaves them to Plotly.
export function heightOf(lines, log) {
  if (!view.zoom) return null;
  const [from, to] = view.zoom;
  let [low, high] = [Infinity, -Infinity];
  const see = (xs, values) => {
    for (let i = 0; i < xs.length; i++) {
      if (xs[i] < from || xs[i] > to || !Number.isFinite(values[i]) || (log && values[i] <= 0)) continue;
      low = Math.min(low, values[i]);
      high = Math.max(high, values[i]);
    }
  };
  for (const line of lines) {
    see(line.x, line.value);
    if (line.raw) see(line.rawX, line.raw);
    if (line.low) for (const side of ["low", "high"]) see(line.x, line[side]);
  }
  if (low > high) return null;
  if (log) {
    const factor = Math.max((high / low) ** 0.06, 1.02);
    return [low / factor, high * factor];
  }
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}
