// A chart by keyboard: arrows move the crosshair, + and - zoom, with shift the arrows move the window, 0 shows all.

import { setView, view } from "./view.js";

export function attachKeys(chart, hover, full) {
  const pan = (part) => {
    if (!view.zoom) return;
    const [from, to] = view.zoom;
    setView({ zoom: [from + (to - from) * part, to + (to - from) * part] });
  };
  const scale = (factor) => {
    const [from, to] = view.zoom ?? chart.rangeNow();
    const middle = hover.x ?? (from + to) / 2;
    setView({ zoom: [middle - (middle - from) * factor, middle + (to - middle) * factor] });
  };
  const actions = {
    ArrowLeft: () => hover.step(chart, -1),
    ArrowRight: () => hover.step(chart, 1),
    PageUp: () => hover.step(chart, -20),
    PageDown: () => hover.step(chart, 20),
    "shift+ArrowLeft": () => pan(-0.25),
    "shift+ArrowRight": () => pan(0.25),
    "+": () => scale(0.5),
    "=": () => scale(0.5),
    "-": () => scale(2),
    0: () => chart.resetZoom(),
    l: () => chart.toggleLog(),
    f: () => full.toggle(chart),
  };
  chart.plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = event.key.startsWith("Arrow");
    const action = actions[event.shiftKey && arrow ? `shift+${event.key}` : event.key];
    if (!action || !chart.drawn) return;
    event.preventDefault();
    action();
    if (arrow && !event.shiftKey) chart.tell();
  });
}
