// A chart by fingers: one that moves sideways moves the crosshair (up and down still scrolls the page), two zoom and pan,
// a double tap shows all. Plotly's own dragging is off there: it would keep the page from scrolling.

import { setView, view } from "./view.js";

export const isTouch = () => matchMedia("(pointer: coarse)").matches;

const DOUBLE_MS = 350;

export function attachTouch(chart, hover) {
  const fingers = new Map();
  let pinch = null;
  let tapped = 0;

  const middle = () => {
    const [a, b] = [...fingers.values()];
    return { x: (a.clientX + b.clientX) / 2, width: Math.max(20, Math.abs(a.clientX - b.clientX)) };
  };
  chart.plot.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch" || !chart.drawn) return;
    fingers.set(event.pointerId, event);
    if (fingers.size === 2) {
      const { width, x } = middle();
      const box = chart.plot.getBoundingClientRect();
      const axis = chart.plot._fullLayout.xaxis;
      const [from, to] = view.zoom ?? chart.rangeNow();
      const part = (x - box.left - axis._offset) / axis._length;
      pinch = { width, from, to, at: from + (to - from) * part, length: axis._length, left: box.left + axis._offset };
    } else if (event.timeStamp - tapped < DOUBLE_MS) chart.resetZoom();
    tapped = event.timeStamp;
    if (fingers.size === 1) hover.over(chart, event);
  });
  chart.plot.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    fingers.set(event.pointerId, event);
    if (pinch && fingers.size === 2) {
      const { width, x } = middle();
      const span = ((pinch.to - pinch.from) * pinch.width) / width;
      const from = pinch.at - (span * (x - pinch.left)) / pinch.length;
      chart.page.slide.move(null, [from, from + span]);
      pinch.last = [from, from + span];
    } else hover.over(chart, event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    chart.plot.addEventListener(name, (event) => {
      fingers.delete(event.pointerId);
      if (pinch?.last) setView({ zoom: pinch.last });
      pinch = null;
    });
  }
}
