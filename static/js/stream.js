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

// A stream does not tell why it was refused. Without a session any more (the token was revoked, say) the page asks for
// another one.
async function seeWhy() {
  try {
    const answer = await fetch(`${API}/workers`);
    if (answer.status === 401) location.reload();
  } catch {
    // the server is away: the stream tries again by itself
  }
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
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(connect, 3000);
      seeWhy();
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
