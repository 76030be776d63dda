// The controls above the charts. All of them write the view, and the view writes them: there is no other state.

import { setView, toggled, view, address, writeAddress } from "./view.js";
import { fill } from "./format.js";
import { words } from "./words.js";

export class Toolbar {
  constructor(page) {
    this.page = page;
    this.form = document.querySelector("[data-axis-form]");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", (event) => this.onInput(event.target));
    this.form.addEventListener("click", (event) => this.onClick(event.target.closest("[data-act]")));
    this.fillFields();
    this.show();
  }

  part(name) {
    return this.form.querySelector(`[data-part="${name}"]`);
  }

  onInput({ name, value, checked }) {
    if (name === "x") setView({ x: value, zoom: null });
    else if (name === "smooth") this.smooth(value);
    else if (name === "logx") setView({ logx: checked });
    else if (name === "members") setView({ members: checked });
    else if (name === "band") setView({ band: value });
    else if (name === "find") setView({ find: value });
    else if (name === "group") this.group(value, checked);
    else if (name === "y") this.choose(value, checked);
    else if (name === "drag") this.page.dragChanged();
    this.show();
  }

  smooth(value) {
    this.part("smooth").textContent = value === "0" ? words.smooth_off : Number(value).toFixed(2);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => setView({ smooth: Number(value) }), 80); // the slider passes many values
  }

  group(field, on) {
    const group = toggled(view.group, field, on);
    setView({ group, ...(group.length && view.x === "time" ? { x: "elapsed", zoom: null } : {}) });
  }

  // All metrics chosen is none chosen: new ones are shown too.
  choose(metric, on) {
    const all = [...this.page.store.metrics];
    const chosen = toggled(view.y.length ? view.y : all, metric, on);
    setView({ y: all.every((one) => chosen.includes(one)) ? [] : chosen });
  }

  onClick(button) {
    const act = button?.dataset.act;
    if (act === "reset") setView({ zoom: null, ylim: [] });
    if (act === "all-metrics") setView({ y: [], find: "" });
    if (act === "link") this.copyLink(button);
  }

  async copyLink(button) {
    writeAddress();
    const label = button.querySelector("span");
    const before = label.textContent;
    try {
      await navigator.clipboard.writeText(String(address()));
      label.textContent = words.copied;
    } catch {
      label.textContent = words.copy_by_hand; // the clipboard is closed to pages without https
    }
    setTimeout(() => (label.textContent = before), 2000);
  }

  dragmode() {
    return new FormData(this.form).get("drag") ?? "zoom";
  }

  // Which settings there are to group by: those that differ first.
  fillFields() {
    const list = this.part("fields");
    list?.replaceChildren(...[...this.page.grouping.fields.values()].map(({ name, title }) => check("group", name, title)));
  }

  fillMetrics() {
    const list = this.part("metrics");
    const metrics = [...this.page.store.metrics].sort();
    const key = metrics.join("\n");
    if (key === this.metricsKey) return;
    this.metricsKey = key;
    list.replaceChildren(...metrics.map((metric) => check("y", metric, metric)));
  }

  show() {
    this.fillMetrics();
    const { form } = this;
    const set = (name, value) => {
      for (const input of form.querySelectorAll(`[name="${name}"]`)) {
        if (["radio", "checkbox"].includes(input.type)) input.checked = [value].flat().includes(input.value);
        else if (document.activeElement !== input) input.value = value;
      }
    };
    set("x", view.x);
    set("smooth", String(view.smooth));
    set("band", view.band);
    set("group", view.group);
    set("find", view.find);
    set("logx", view.logx ? "1" : "");
    set("members", view.members ? "1" : "");
    set("y", view.y.length ? view.y : [...this.page.store.metrics]);
    this.part("smooth").textContent = view.smooth ? view.smooth.toFixed(2) : words.smooth_off;
    form.querySelector("[data-act=reset]").hidden = !view.zoom && !view.ylim.length;
    const clock = form.querySelector('[name="x"][value="time"]');
    clock.disabled = view.group.length > 0;
    const groups = this.part("group");
    if (groups) groups.textContent = view.group.length ? view.group.map((field) => this.page.grouping.title(field)).join(", ") : words.group_off;
    const total = this.page.store.metrics.size;
    const shown = view.y.length ? view.y.filter((metric) => this.page.store.metrics.has(metric)).length : total;
    this.part("charts").textContent = shown < total ? fill(words.some_metrics, { n: shown, total }) : String(total);
  }
}

function check(name, value, title) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "checkbox", name, value });
  const text = document.createElement("bdi");
  text.textContent = title;
  label.append(input, text);
  item.append(label);
  return item;
}
