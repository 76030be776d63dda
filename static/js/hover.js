// One crosshair over all charts: the mouse, a finger or the arrow keys move it, every chart shows its values there.

import { nearest } from "./axes.js";
import { view } from "./view.js";

// `charts()` gives those that are near the screen.
export class Hover {
  constructor(charts) {
    this.charts = charts;
    this.asked = null;
  }

  attach(chart) {
    const { plot } = chart;
    plot.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch" && event.buttons === 0) this.over(chart, event);
    });
    plot.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && this.clear());
    plot.addEventListener("blur", () => this.clear());
  }

  over(chart, event) {
    const { clientX, clientY } = event;
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      const at = chart.overlay.xAt(this.last.clientX, this.last.clientY);
      if (at) this.show(chart, at.x, at.y);
      else this.clear();
    });
    this.last = { clientX, clientY };
  }

  show(chart, x, pointer = null) {
    this.x = x;
    const told = chart.overlay.show(x, pointer);
    for (const other of this.charts()) if (other !== chart) other.overlay.show(x, null, told);
  }

  clear() {
    this.x = null;
    for (const chart of this.charts()) chart.overlay.hide();
  }

  // From point to point of the chart's longest line.
  step(chart, by) {
    const line = chart.lines.reduce((a, b) => (b.x.length > (a?.x.length ?? 0) ? b : a), null);
    if (!line) return;
    const [from, to] = view.zoom ?? [line.x[0], line.x.at(-1)];
    const i = this.x == null ? nearest(line.x, by > 0 ? from : to) : nearest(line.x, this.x) + by;
    const x = line.x[Math.max(0, Math.min(line.x.length - 1, i))];
    if (x >= from && x <= to) this.show(chart, x);
  }
}
