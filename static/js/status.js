// What the charts' own pill says: live, paused while zoomed (and how much came meanwhile), or since when nothing came.

import { count, fill } from "./format.js";
import { setView, view } from "./view.js";
import { words } from "./words.js";

const ENDED = ["finished", "failed", "canceled"];

export class Status {
  constructor(store) {
    this.store = store;
    this.connected = true;
    this.last = null;
    this.seen = 0;
    this.place = document.querySelector("[data-charts-status]");
    this.text = this.place.querySelector("[data-part=text]");
    this.news = this.place.querySelector("button");
    this.news.addEventListener("click", () => setView({ zoom: null }));
    document.addEventListener("viewchange", ({ detail }) => {
      if (!detail.has("zoom")) return;
      this.seen = store.news;
      this.show();
    });
  }

  arrived() {
    this.last = new Date();
    this.show();
  }

  connection(state) {
    this.connected = state === "live";
    this.show();
  }

  show() {
    const over = [...this.store.runs.values()].every((run) => ENDED.includes(run.state));
    const state = over ? "over" : !this.connected ? "stale" : view.zoom ? "paused" : "live";
    this.place.hidden = over;
    this.place.dataset.state = state;
    const since = this.last?.toLocaleTimeString(document.documentElement.lang || "en");
    const texts = { live: words.live, paused: words.paused_zoomed, over: "", stale: since ? fill(words.stale_since, { time: since }) : words.reconnecting };
    if (this.text.textContent !== texts[state]) this.text.textContent = texts[state];
    const fresh = this.store.news - this.seen;
    this.news.hidden = state !== "paused" || fresh <= 0;
    this.news.textContent = fill(words.new_points, { n: count(fresh) });
  }
}
