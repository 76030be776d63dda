// One chart over the whole screen: in the page's dialog, which keeps the focus and closes on Escape.

import { setView, view } from "./view.js";

export class Full {
  constructor(charts) {
    this.charts = charts;
    this.dialog = document.querySelector("[data-full]");
    this.chart = null;
    this.dialog.addEventListener("close", () => this.putBack());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  // As the view says; called when it changes, and when charts are added.
  follow() {
    const wanted = view.full && this.charts().find((chart) => chart.metrics.includes(view.full));
    if (wanted && wanted !== this.chart) this.open(wanted);
    else if (!view.full && this.chart) this.dialog.close();
  }

  toggle(chart) {
    setView({ full: view.full ? null : chart.metrics[0] });
  }

  open(chart) {
    if (this.chart) this.putBack();
    this.chart = chart;
    this.place = document.createElement("div");
    this.place.className = "chart chart-away";
    chart.frame.replaceWith(this.place);
    this.dialog.append(chart.frame);
    this.dialog.setAttribute("aria-label", chart.title);
    const { activeElement } = document;
    if (!this.dialog.open) this.dialog.showModal();
    if (!this.dialog.contains(activeElement)) chart.plot.focus({ preventScroll: true });
    chart.enter();
  }

  putBack() {
    if (!this.chart) return;
    const { chart } = this;
    const act = chart.frame.querySelector('[data-act="full"]');
    this.chart = null;
    this.place.replaceWith(chart.frame);
    chart.enter();
    setView({ full: null });
    act.focus({ preventScroll: true });
  }
}
