// A chart as a picture or a table. Pictures are what is drawn, with a title, a legend and a ground; a table is read anew
// by the server, every point of the runs that are shown, so that a long series never passes through this page.

import { legendName } from "./captions.js";
import { API } from "./page.js";
import { isShown, view } from "./view.js";
import { words } from "./words.js";

const SIZE = { width: 1200, height: 640 };
const LEGEND_LINES = 40; // more would leave no room for the chart
const NAME_LENGTH = 40;

const plain = (text) => text.normalize("NFKC").replace(/[^\p{L}\p{N}.=+-]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, NAME_LENGTH);

function fileName(chart, kind) {
  const { lines } = chart;
  const who = lines.length <= 3 ? lines.map((line) => plain(line.name)).join("+") : `${lines.length}-lines`;
  const window = view.zoom ? `_${view.x}-${view.zoom.map((end) => Number(end.toPrecision(6))).join("-")}` : "";
  return `trainyard_${plain(chart.title)}_${who}${window}.${kind}`;
}

function save(href, name) {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
}

export async function savePicture(chart, format) {
  const tokens = chart.page.tokens();
  const names = new Map(chart.lines.map((line) => [line.id, legendName(line)]));
  const many = chart.lines.length > LEGEND_LINES;
  const data = chart.plot.data.map((trace) => ({ ...trace, name: names.get(trace.meta.id) ?? trace.name }));
  const layout = {
    ...chart.plot.layout,
    title: { text: chart.title, x: 0.04, font: { size: 17 } },
    paper_bgcolor: tokens.surface,
    plot_bgcolor: tokens.surface,
    margin: { l: 64, r: 24, t: 56, b: 56 },
    showlegend: !many && chart.lines.length > 1,
    legend: chart.lines.length > 8 ? { font: { size: 11 } } : { orientation: "h", y: -0.12, font: { size: 12 } },
    autosize: false,
    ...SIZE,
  };
  const picture = await window.Plotly.toImage({ data, layout }, { format, ...SIZE, scale: format === "png" ? 2 : 1 });
  save(picture, fileName(chart, format));
}

export function saveTable(chart, onlyWindow) {
  const runs = [...chart.page.store.runs.keys()].filter(isShown);
  const query = new URLSearchParams([
    ...runs.map((id) => ["run", id]),
    ...chart.metrics.map((metric) => ["metric", metric]),
    ["x", view.x],
  ]);
  if (onlyWindow && view.zoom) {
    query.set("from", String(view.zoom[0]));
    query.set("to", String(view.zoom[1]));
  }
  save(`${API}/series.csv?${query}`, fileName(chart, "csv"));
}

export function saveError(chart) {
  chart.parts.note.textContent = words.no_picture;
}
