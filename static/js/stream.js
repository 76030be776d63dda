// One event stream a page, and the pill in the top bar that says how it is.

import { API } from "./page.js";
import { words } from "./words.js";

const pill = document.querySelector("[data-connection]");

function show(state) {
  if (!pill) return;
  pill.hidden = false;
  pill.dataset.state = state;
  pill.textContent = state === "live" ? words.live : words.reconnecting;
}

// Opens the stream of these runs (none: the states of all). `cursors` maps run -> the last flush that is known.
// `handlers` has functions by event: run, points, resync, gone; `open`, told whether it is a reconnection; and `state`,
// told "live" or "waiting".
export function openStream(runs, cursors, handlers) {
  let source = null;
  let opened = 0;
  let last = "";

  function tell(state) {
    show(state);
    handlers.state?.(state);
  }

  function connect() {
    const query = new URLSearchParams(runs.map((run) => ["run", run]));
    const after = last || Object.entries(cursors).map(([run, seq]) => `${run}:${seq}`).join(",");
    if (after) query.set("after", after);
    source = new EventSource(`${API}/events?${query}`);
    source.addEventListener("open", () => {
      tell("live");
      handlers.open?.(opened++ > 0);
    });
    source.addEventListener("error", () => {
      tell("waiting");
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
    });
    for (const name of ["run", "points", "resync", "gone"]) {
      source.addEventListener(name, (event) => {
        last = event.lastEventId || last;
        handlers[name]?.(JSON.parse(event.data));
      });
    }
  }

  connect();
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (event) => event.persisted && connect());
}
