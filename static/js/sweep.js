// Settings against results: parallel coordinates and a scatter plot that share their runs, colours and filter.

import { fill } from "./format.js";
import { Parallel, keptText } from "./parallel.js";
import { Scatter } from "./scatter.js";
import { showRuns, view } from "./view.js";
import { words } from "./words.js";

const panel = document.querySelector("[data-sweep]");
const read = () => JSON.parse(document.getElementById("sweep-data")?.textContent ?? "null");
const part = (name) => panel.querySelector(`[data-part="${name}"]`);
let data = panel && read();

function setAddress(name, values) {
  const url = new URL(location.href);
  url.searchParams.delete(name);
  for (const value of values) url.searchParams.append(name, value);
  history.replaceState(history.state, "", url);
}

function choices(select, chosen, none) {
  const columns = data.columns.filter((column) => column.varies || column.key === chosen);
  const option = (value, text) => {
    const element = document.createElement("option");
    element.value = value;
    element.textContent = text;
    element.selected = value === chosen;
    return element;
  };
  select.replaceChildren(...(none ? [option("", none)] : []), ...columns.map(({ key, title }) => option(key, title)));
}

function axisBoxes() {
  const boxes = data.columns.filter((column) => column.varies).map(({ key, title }) => {
    const [label, box] = [document.createElement("label"), document.createElement("input")];
    Object.assign(box, { type: "checkbox", name: "axes", value: key, checked: data.axes.includes(key) });
    label.append(box, title);
    return label;
  });
  part("axes").replaceChildren(...boxes);
}

function start() {
  const tip = part("tip");
  const lit = { run: null };
  const hover = (source) => (run, event) => {
    if (run !== lit.run) {
      lit.run = run;
      parallel.highlight(run);
      scatter.highlight(run);
    }
    tip.hidden = run === null;
    if (run === null) return;
    const name = document.createElement("strong");
    name.textContent = data.runs[run].name;
    tip.replaceChildren(name, ...source().tip(run).map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    const box = panel.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY - box.top + 14}px`;
  };
  const open = (run) => location.assign(data.runs[run].url);
  const parallel = new Parallel(part("parallel"), { hover: hover(() => parallel), open, brushed: () => onBrush() });
  const scatter = new Scatter(part("scatter"), { hover: hover(() => scatter), open, keeps: (run) => parallel.keeps(run) });
  for (const [key, low, high] of data.brushes) parallel.brushes.set(key, [low, high]);

  function draw() {
    parallel.draw(data);
    scatter.draw(data);
    showKept();
  }

  function showKept() {
    scatter.fade();
    const kept = parallel.kept();
    const brushed = parallel.brushes.size > 0;
    part("kept").textContent = brushed ? keptText(kept.length, data.runs.length) : words.brush_hint;
    part("only").hidden = !brushed || !kept.length;
    part("clear").hidden = !brushed;
    const found = scatter.correlation();
    part("correlation").textContent = found ? fill(words.rank_correlation, { value: found.value.toFixed(2), n: found.n }) : "";
  }

  function onBrush() {
    setAddress("brush", [...parallel.brushes].map(([key, ends]) => `${key},${ends.map((end) => Number(end.toPrecision(6))).join(",")}`));
    showKept();
  }

  part("clear").addEventListener("click", () => {
    parallel.brushes.clear();
    onBrush();
    draw();
  });
  part("only").addEventListener("click", () => {
    const all = data.runs.map((run) => run.id);
    showRuns(parallel.kept().map((i) => all[i]), all);
    document.getElementById("charts")?.scrollIntoView();
  });
  panel.addEventListener("change", ({ target }) => {
    if (target.name === "axes") {
      data.axes = [...part("axes").querySelectorAll("input:checked")].map((box) => box.value);
      setAddress("axes", data.axes);
    } else if (target.name === "tint") {
      data.colour = target.value;
      setAddress("tint", [target.value || "run"]);
    } else {
      if (target.name === "sx") [data.scatter[0], data.logx] = [target.value, undefined];
      if (target.name === "sy") [data.scatter[1], data.logy] = [target.value, undefined];
      if (target.name === "slogx") data.logx = target.checked;
      if (target.name === "slogy") data.logy = target.checked;
      for (const [i, name] of ["sx", "sy"].entries()) setAddress(name, [data.scatter[i]]);
      showLogs();
    }
    draw();
  });

  // The boxes follow the columns' own choice until they are set by hand.
  function showLogs() {
    for (const [i, name] of ["logx", "logy"].entries()) {
      const column = data.columns.find(({ key }) => key === data.scatter[i]);
      const box = panel.querySelector(`[name="s${name}"]`);
      box.checked = data[name] ?? column.log;
      box.disabled = Boolean(column.labels) || column.values.some((value) => value !== null && value <= 0);
    }
  }

  function fillControls() {
    choices(panel.querySelector('[name="sx"]'), data.scatter[0]);
    choices(panel.querySelector('[name="sy"]'), data.scatter[1]);
    choices(panel.querySelector('[name="tint"]'), data.colour, words.own_colours);
    axisBoxes();
    showLogs();
  }

  fillControls();
  draw();
  document.addEventListener("refreshed", () => {
    const fresh = read();
    if (!fresh || JSON.stringify(fresh.columns) === JSON.stringify(data.columns)) return;
    const { axes, scatter: pair, colour, logx, logy } = data;
    data = { ...fresh, axes, scatter: pair, colour, logx, logy };
    draw();
  });
}

if (data && view) start();
