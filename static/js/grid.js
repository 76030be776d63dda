// The charts of a page in their groups: which there are, in which order, which are shown, which are near the screen.

import { Chart } from "./chart.js";
import { fill } from "./format.js";
import { setView, toggled, view } from "./view.js";
import { words } from "./words.js";

const FIRST = ["loss", "accuracy"];
const GROUPS = ["", "train", "val", "test"]; // then others by name, and the machine's own last
const NEAR = "400px 0px"; // charts are drawn before they are scrolled to
const rank = (list, item, other) => (list.includes(item) ? list.indexOf(item) : other);

export class Grid {
  // `made(chart)` is called for every new chart.
  constructor(page, made) {
    Object.assign(this, { page, made, charts: new Map(), sections: new Map() });
    this.place = document.querySelector("[data-charts]");
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const chart = [...this.charts.values()].find((one) => one.frame === target);
        if (isIntersecting && chart) chart.enter();
        else if (chart && !chart.frame.closest("dialog")) chart.leave();
      }
    }, { rootMargin: NEAR });
  }

  get near() {
    return [...this.charts.values()].filter((chart) => chart.near);
  }

  // On a run's own page training and validation share a chart; a comparison has one chart a metric.
  chartOf(metric) {
    const match = this.page.single && /^(?:train|val|test)\/(.+)$/.exec(metric);
    return match && !/^train\/lr$/.test(metric) ? match[1] : metric;
  }

  sectionOf(name) {
    if (this.page.single && (!name.includes("/") || name === "train/lr")) return "";
    return name.includes("/") ? name.slice(0, name.indexOf("/")) : "";
  }

  wanted(metric) {
    if (view.y.length && !view.y.includes(metric)) return false;
    const find = view.find.toLowerCase();
    return `${metric} ${words[metric] ?? ""}`.toLowerCase().includes(find);
  }

  // Brings the charts in line with the metrics that there are and with the view.
  arrange() {
    const names = new Map();
    for (const metric of [...this.page.store.metrics].sort()) {
      const name = this.chartOf(metric);
      names.set(name, [...(names.get(name) ?? []), metric]);
    }
    for (const [name, metrics] of names) this.add(name, metrics);
    const shown = [...this.charts].filter(([, chart]) => chart.metrics.some((metric) => this.wanted(metric)));
    const bySection = Map.groupBy(shown, ([name]) => this.sectionOf(name));
    const order = [...bySection.keys()].sort((a, b) => this.sectionRank(a) - this.sectionRank(b) || a.localeCompare(b));
    for (const [prefix, section] of this.sections) if (!bySection.has(prefix)) section.remove();
    for (const prefix of order) this.fill(prefix, bySection.get(prefix));
    this.showEmpty(shown.length);
  }

  sectionRank(prefix) {
    return rank(GROUPS, prefix, prefix === "system" ? 1000 : 500);
  }

  add(name, metrics) {
    const chart = this.charts.get(name);
    if (chart) {
      if (chart.metrics.length !== metrics.length) {
        chart.metrics = metrics;
        if (chart.near) chart.want();
      }
      return;
    }
    const fresh = new Chart(words[name] ?? name, metrics, this.page);
    this.charts.set(name, fresh);
    this.made(fresh);
    this.observer.observe(fresh.frame);
  }

  fill(prefix, found) {
    const section = this.sections.get(prefix) ?? this.makeSection(prefix);
    const name = prefix === "" ? words.group_main : (words[`group_${prefix}`] ?? prefix);
    const open = !view.closed.includes(prefix || "-");
    const button = section.querySelector("button");
    button.querySelector("[data-part=name]").textContent = name;
    button.querySelector("[data-part=count]").textContent = String(found.length);
    button.setAttribute("aria-expanded", String(open));
    const body = section.querySelector(".chart-grid");
    body.hidden = !open;
    const leaf = (one) => one.slice(one.lastIndexOf("/") + 1);
    found.sort(([a], [b]) => rank(FIRST, leaf(a), 9) - rank(FIRST, leaf(b), 9) || a.localeCompare(b));
    const frames = found.map(([, chart]) => (chart.frame.closest("dialog") ? null : chart.frame)).filter(Boolean);
    const held = [...body.children].filter((child) => child.matches(".chart:not(.chart-away)"));
    if (frames.length !== held.length || frames.some((frame, i) => frame !== held[i])) {
      const away = [...body.children].filter((child) => child.matches(".chart-away"));
      body.replaceChildren(...frames, ...away);
    }
    this.place.append(section);
  }

  makeSection(prefix) {
    const section = document.querySelector("[data-section-template]").content.firstElementChild.cloneNode(true);
    section.querySelector("button").addEventListener("click", () => setView({ closed: toggled(view.closed, prefix || "-") }));
    this.sections.set(prefix, section);
    return section;
  }

  showEmpty(shown) {
    const note = document.querySelector("[data-charts-empty]");
    note.hidden = shown > 0;
    if (shown) return;
    const over = [...this.page.store.runs.values()].every((run) => ["finished", "failed", "canceled"].includes(run.state));
    const any = this.charts.size > 0;
    note.textContent = any ? fill(words.no_chart_fits, { n: this.charts.size }) : over ? words.nothing : words.empty;
  }
}
