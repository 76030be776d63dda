// The legend of all charts of a comparison: every run (or group) with its colour and dash, a switch each, a search.

import { DASHES, lineMark } from "./marks.js";
import { fill } from "./format.js";
import { isShown, showRuns, view } from "./view.js";
import { words } from "./words.js";

const DOUBLE_MS = 300;

export class Legend {
  // `marked(runs)` brings out the lines of runs, or of none.
  constructor(page, marked) {
    Object.assign(this, { page, marked, key: "" });
    this.place = document.querySelector("[data-legend]");
    if (!this.place) return;
    this.list = this.place.querySelector("ul");
    this.title = this.place.querySelector("[data-part=title]");
    this.search = this.place.querySelector("input");
    this.search.addEventListener("input", () => this.show());
    this.place.querySelector('[data-act="all"]').addEventListener("click", () => this.showOnly(this.found().flatMap((item) => item.runs), true));
    this.place.querySelector('[data-act="none"]').addEventListener("click", () => this.hideFound());
    this.list.addEventListener("pointerover", (event) => this.point(event));
    this.list.addEventListener("pointerleave", () => this.marked(null));
    this.list.addEventListener("focusin", (event) => this.point(event));
    this.list.addEventListener("focusout", () => this.marked(null));
    this.list.addEventListener("click", (event) => this.onClick(event));
    if (matchMedia("(max-width: 900px)").matches) this.place.open = false;
  }

  items() {
    if (view.group.length) {
      return this.page.grouping.groups().map(({ id, name, runs, look: { colour, dash } }) => ({
        id, name, runs, note: fill(words.n_runs, { n: runs.length }), colour, dash,
      }));
    }
    return [...this.page.store.runs.values()].map((run) => ({ id: run.id, name: run.label, runs: [run.id], note: "", colour: run.colour, dash: run.dash }));
  }

  found() {
    const text = this.search.value.trim().toLowerCase();
    return this.items().filter((item) => item.name.toLowerCase().includes(text));
  }

  show() {
    if (!this.place) return;
    const all = this.items();
    const found = this.found();
    const shown = all.filter((item) => item.runs.some(isShown)).length;
    this.title.textContent = fill(view.group.length ? words.groups_shown : words.runs_shown, { n: shown, total: all.length });
    this.search.hidden = all.length < 8;
    const key = JSON.stringify(found.map((item) => [item.id, item.name, item.note, item.colour, item.dash]));
    if (key !== this.key) {
      this.key = key;
      this.list.replaceChildren(...found.map((item) => row(item)));
    }
    found.forEach((item, i) => {
      const on = item.runs.some(isShown);
      const [button] = this.list.children[i].children;
      button.setAttribute("aria-pressed", String(on));
    });
  }

  itemOf(event) {
    const row_ = event.target.closest("li");
    return row_ && this.items().find((item) => item.id === row_.dataset.item);
  }

  point(event) {
    const item = this.itemOf(event);
    this.marked(item && item.runs.some(isShown) ? item.runs : null);
  }

  // A click hides or shows; a second one at once, or the button "only", shows this alone.
  onClick(event) {
    const item = this.itemOf(event);
    if (!item) return;
    const twice = this.before?.id === item.id && event.timeStamp - this.before.at < DOUBLE_MS && event.detail > 1;
    this.before = { id: item.id, at: event.timeStamp };
    if (event.target.closest('[data-act="only"]') || twice) {
      this.showOnly(item.runs);
      return;
    }
    const all = this.all();
    const on = item.runs.some(isShown);
    showRuns(all.filter((id) => (item.runs.includes(id) ? !on : isShown(id))), all);
  }

  all() {
    return [...this.page.store.runs.keys()];
  }

  // Shows these alone; once more, all.
  showOnly(runs, add = false) {
    const all = this.all();
    const shown = all.filter(isShown);
    if (add) showRuns([...new Set([...shown, ...runs])], all);
    else if (shown.length === runs.length && runs.every((id) => shown.includes(id)) && !this.twice) showRuns(all, all);
    else showRuns(runs, all);
  }

  hideFound() {
    const gone = new Set(this.found().flatMap((item) => item.runs));
    showRuns(this.all().filter((id) => isShown(id) && !gone.has(id)), this.all());
  }
}

function row({ id, name, note, colour, dash }) {
  const item = document.createElement("li");
  item.dataset.item = id;
  const button = document.createElement("button");
  button.type = "button";
  button.className = `legend-run run-colour-${colour}`;
  button.title = name;
  const text = document.createElement("bdi");
  text.textContent = name;
  button.append(lineMark(DASHES[dash]), text);
  if (note) {
    const small = document.createElement("span");
    small.className = "muted";
    small.textContent = note;
    button.append(small);
  }
  const only = document.createElement("button");
  only.type = "button";
  only.className = "legend-only";
  only.dataset.act = "only";
  only.textContent = words.only;
  only.setAttribute("aria-label", fill(words.only_this, { name }));
  item.append(button, only);
  return item;
}
