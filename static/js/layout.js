// The look of every chart, from the theme's tokens.

import { words } from "./words.js";

let drawn = 0;

// `height` is the range of y, or null for one that fits the points.
export function layoutOf(tokens, look, chance, height) {
  drawn += 1;
  const axis = {
    gridcolor: tokens.grid,
    linecolor: tokens["line-strong"],
    tickcolor: tokens["line-strong"],
    zeroline: false,
    automargin: true,
    tickfont: { size: 11, color: tokens.muted },
    exponentformat: "e",
  };
  return {
    autosize: true,
    uirevision: look.axis, // live points must not undo a zoom
    margin: { l: 46, r: 14, t: 10, b: 36 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: tokens.font, size: 12, color: tokens.ink },
    showlegend: false,
    hovermode: "x unified",
    hoverdistance: 40,
    dragmode: "zoom",
    hoverlabel: {
      bgcolor: tokens.surface,
      bordercolor: tokens["line-strong"],
      font: { size: 12, color: tokens.ink },
      namelength: 40,
    },
    xaxis: {
      ...axis,
      type: look.axis === "time" ? "date" : "linear",
      rangemode: look.axis === "time" ? "normal" : "tozero", // charts side by side begin at the same place
      showline: true,
      ticks: "outside",
      ticklen: 4,
      nticks: 8,
      title: { text: words[`x_${look.axis}`], standoff: 6, font: { size: 11, color: tokens.muted } },
      ...(look.axis === "step" || look.axis === "samples" ? { tickformat: ",~d", hoverformat: ",d" } : {}),
      ...(look.axis === "epoch" ? { hoverformat: ".2f" } : {}),
      ...(look.axis === "elapsed" ? { hoverformat: ".1f" } : {}),
    },
    yaxis: {
      ...axis,
      nticks: 6,
      uirevision: drawn, // y follows the window; the chart keeps what was zoomed by hand
      ...(height ? { range: [...height], autorange: false } : { autorange: true, rangemode: look.fromZero ? "tozero" : "normal" }),
      ...(look.accuracy ? { tickformat: ".0~%" } : {}),
    },
    yaxis2: { overlaying: "y", range: [0, 1], fixedrange: true, visible: false, side: "right" },
    shapes: chance
      ? [
          {
            type: "line",
            xref: "paper",
            x0: 0,
            x1: 1,
            y0: chance.value,
            y1: chance.value,
            line: { color: tokens.muted, width: 1, dash: "dot" },
            layer: "below",
          },
        ]
      : [],
  };
}
