// The look of every chart, from the theme's tokens.

import { isLogX, shownRange } from "./axes.js";
import { view } from "./view.js";
import { words } from "./words.js";

let drawn = 0;

// Dates on an axis as everywhere on our pages, in any language: 2026-11-23.
const ISO = { year: "%Y", month: "%Y-%m", dayMonth: "%m-%d", dayMonthYear: "%Y-%m-%d" };
export const CONFIG = {
  displayModeBar: false,
  responsive: false,
  doubleClick: false,
  showTips: false,
  scrollZoom: false,
  locale: "iso",
  locales: { iso: { dictionary: {}, format: ISO } },
};

// `height` is the range of y, or null for one that fits the points; `kind` says what the metric is.
export function layoutOf(tokens, { kind, chance, height, log, dragmode }) {
  drawn += 1;
  const logx = isLogX(view);
  const axis = {
    gridcolor: tokens.grid,
    linecolor: tokens["line-strong"],
    tickcolor: tokens["line-strong"],
    zeroline: false,
    tickfont: { size: 11, color: tokens.muted },
    exponentformat: "e",
    uirevision: drawn, // the view says what is zoomed, not Plotly
  };
  return {
    autosize: true,
    uirevision: drawn,
    margin: { l: 54, r: 14, t: 10, b: 38 }, // fixed: charts line up, and measuring doubles the time of a drawing
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: tokens.font, size: 12, color: tokens.ink },
    showlegend: false,
    hovermode: false, // hover.js draws one crosshair over all charts
    dragmode,
    xaxis: {
      ...axis,
      type: view.x === "time" ? "date" : logx ? "log" : "linear",
      ...(view.zoom
        ? { range: shownRange(view.x, logx, view.zoom), autorange: false }
        : { autorange: true, rangemode: view.x === "time" ? "normal" : "tozero" }), // charts side by side begin alike
      showline: true,
      ticks: "outside",
      ticklen: 4,
      nticks: view.x === "time" ? 5 : 8, // a time of day is wide
      tickangle: 0,
      title: { text: words[`x_${view.x}`], standoff: 6, font: { size: 11, color: tokens.muted } },
      ...(!logx && ["step", "samples"].includes(view.x) ? { tickformat: ",~d" } : {}),
      ...(logx ? { dtick: 1 } : {}),
    },
    yaxis: {
      ...axis,
      type: log ? "log" : "linear",
      nticks: 6,
      ...(height
        ? { range: log ? height.map((end) => Math.log10(end)) : [...height], autorange: false }
        : { autorange: true, rangemode: kind === "lr" ? "tozero" : "normal" }),
      ...(kind === "accuracy" ? { tickformat: ".0~%" } : {}),
    },
    yaxis2: { overlaying: "y", range: [0, 1], fixedrange: true, visible: false, side: "right" },
    shapes: chance ? [chanceLine(tokens, chance.value)] : [],
  };
}

function chanceLine(tokens, value) {
  return {
    type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value,
    line: { color: tokens.muted, width: 1, dash: "dot" }, layer: "below",
  };
}
