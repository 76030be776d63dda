// Lines to Plotly traces: a line, what was measured faint behind it, a band, and markers at the edge for what is not finite.

import { shownX } from "./axes.js";
import { view } from "./view.js";

const EDGE = { NaN: ["x-thin", 0.97], Infinity: ["triangle-up", 0.97], "-Infinity": ["triangle-down", 0.03] };
const FEW = 60; // points of a line that are worth a marker each
const FEW_LINES = 12;

// SVG: with 100 lines in Chromium without a GPU, scattergl took eight times as long (benchmarks/page.py).
export function tracesOf(line, { faint, lines }) {
  const base = {
    type: "scatter",
    name: line.name,
    meta: { id: line.id, run: line.run.id, runs: line.runs, metric: line.metric },
    hoverinfo: "skip",
    connectgaps: false,
    showlegend: false,
  };
  const x = shown(line.x);
  const few = line.x.length <= FEW && lines <= FEW_LINES;
  const width = lines > FEW_LINES ? 1.1 : 1.5;
  const main = {
    ...base,
    x,
    y: finite(line.value),
    mode: line.x.length === 1 ? "markers" : few && (line.validation || line.group) ? "lines+markers" : "lines",
    line: { color: line.colour, width: line.raw || line.group || line.validation ? 1.8 : width, dash: line.dash },
    marker: { size: 6, color: line.colour },
    opacity: faint && !line.validation && !line.raw ? 0.62 : 1,
    showlegend: true,
  };
  return [...bandTraces(line, base, x), ...rawTrace(line, base, width), main, ...oddTraces(line, base)];
}

function rawTrace(line, base, width) {
  if (!line.raw) return [];
  return [
    {
      ...base,
      x: shown(line.rawX),
      y: finite(line.raw),
      mode: "lines",
      opacity: 0.22,
      line: { color: line.colour, width: Math.min(width, 1.1), dash: line.dash },
    },
  ];
}

// Where one member is alone there is no spread: the band closes.
function bandTraces(line, base, x) {
  if (!line.low) return [];
  const edge = { ...base, x, mode: "lines", line: { width: 0, color: line.colour } };
  const closed = (side) => line[side].map((value, i) => (Number.isFinite(value) ? value : Number.isFinite(line.value[i]) ? line.value[i] : null));
  return [
    { ...edge, y: closed("low") },
    { ...edge, y: closed("high"), fill: "tonexty", fillcolor: translucent(line.colour) },
  ];
}

const translucent = (colour) => `rgba(${colour.match(/[\d.]+/g).slice(0, 3).join(",")},0.16)`;

// A member of a group, faint behind its mean.
export function memberTrace(line, colour) {
  return {
    type: "scatter", mode: "lines", x: shown(line.x), y: finite(line.value), opacity: 0.25, hoverinfo: "skip",
    showlegend: false, connectgaps: false, line: { color: colour, width: 1 }, name: line.name,
    meta: { id: line.id, run: line.run.id, runs: line.runs, metric: line.metric, member: true },
  };
}

function oddTraces(line, base) {
  const [values, xs] = line.raw ? [line.raw, line.rawX] : [line.value, line.x];
  const odd = values.flatMap((value, i) => (Number.isFinite(value) ? [] : [i]));
  if (!odd.length) return [];
  const kinds = odd.map((i) => EDGE[String(values[i])]);
  return [
    {
      ...base,
      mode: "markers",
      x: shown(odd.map((i) => xs[i])),
      y: kinds.map(([, y]) => y),
      yaxis: "y2",
      text: odd.map((i) => String(values[i])),
      marker: { symbol: kinds.map(([symbol]) => symbol), size: 9, color: line.colour, line: { color: line.colour, width: 2 } },
    },
  ];
}

const shown = (column) => (view.x === "time" ? column.map((x) => shownX("time", x)) : column);
const finite = (values) => (values.every(Number.isFinite) ? values : values.map((value) => (Number.isFinite(value) ? value : null)));
