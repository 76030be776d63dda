// Series to Plotly traces: one line a run and metric, markers at the edge for what is not finite.

import { shownX } from "./axes.js";
import { smoothed } from "./smooth.js";

const isValidation = (metric) => metric.startsWith("val/") || metric.startsWith("test/");
const EDGE = { NaN: ["x-thin", 0.97], Infinity: ["triangle-up", 0.97], "-Infinity": ["triangle-down", 0.03] };

// The coarse series with the points of a zoomed window in their place.
export function merged(one, fine) {
  if (!fine || !fine.x.length) return one;
  const [low, high] = [fine.x[0], fine.x.at(-1)];
  const pick = (name) => [
    ...one[name].filter((_, i) => one.x[i] < low),
    ...fine[name],
    ...one[name].filter((_, i) => one.x[i] > high),
  ];
  return { ...one, step: pick("step"), x: pick("x"), value: pick("value") };
}

// `line` is {run, metric, name, colour}; `look` is {axis, smooth, overlay, accuracy, faint}.
export function tracesOf(one, line, look) {
  const x = one.x.map((value) => shownX(look.axis, value));
  const validation = isValidation(line.metric);
  const few = one.x.length <= 60;
  const base = {
    type: "scatter",
    x,
    name: line.name,
    meta: { run: line.run.id, metric: line.metric },
    hovertemplate: look.accuracy ? "%{y:.2%}" : "%{y:.5~g}",
    connectgaps: false,
  };
  const y = one.value.map((value) => (Number.isFinite(value) ? value : null));
  const style = validation
    ? {
        mode: few ? "lines+markers" : "lines",
        line: { color: line.colour, width: 2, dash: "5px,3px" },
        marker: { size: 6, color: line.colour },
      }
    : {
        mode: one.x.length === 1 ? "markers" : "lines",
        line: { color: line.colour, width: look.faint ? 1.1 : 1.4 },
        marker: { size: 6, color: line.colour },
      };
  const traces = [];
  if (look.smooth > 0 && !validation && !few && line.metric !== "train/lr") {
    traces.push({ ...base, ...style, y, opacity: 0.22, hoverinfo: "skip", hovertemplate: null, line: { ...style.line, width: 1 } });
    traces.push({ ...base, ...style, y: smoothed(one.step, one.value, look.smooth), line: { ...style.line, width: 2 } });
  } else {
    traces.push({ ...base, ...style, y, opacity: look.faint && !validation ? 0.62 : 1 });
  }
  return [...traces, ...oddTraces(one, line, base)];
}

function oddTraces(one, line, base) {
  const odd = one.value.flatMap((value, i) => (Number.isFinite(value) ? [] : [i]));
  if (!odd.length) return [];
  const kinds = odd.map((i) => EDGE[String(one.value[i])]);
  return [
    {
      ...base,
      mode: "markers",
      x: odd.map((i) => base.x[i]),
      y: kinds.map(([, y]) => y),
      yaxis: "y2",
      text: odd.map((i) => String(one.value[i])),
      hovertemplate: "%{text}",
      showlegend: false,
      marker: { symbol: kinds.map(([symbol]) => symbol), size: 9, color: line.colour, line: { color: line.colour, width: 2 } },
    },
  ];
}
