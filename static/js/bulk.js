// One action on all selected runs: asked for in a dialog, done by one request, told run by run.

import { split } from "./editor.js";
import { fill } from "./format.js";
import { API } from "./page.js";
import { words } from "./words.js";

const NAMES_SHOWN = 8;

// Asks, acts, and tells the outcome: `told(outcome)` has `done` (ids), `failed` ([{run, message}]) or `error`.
export function askAndAct(action, selected, told) {
  const dialog = document.querySelector(`dialog[data-ask="${action}"]`);
  showNames(dialog.querySelector("[data-names]"), [...selected.values()]);
  dialog.returnValue = "";
  dialog.addEventListener(
    "close",
    async () => {
      if (dialog.returnValue !== "yes") return;
      const body = { runs: [...selected.keys()], action };
      if (action === "tag") {
        for (const name of ["add", "remove"]) body[name] = split(dialog.querySelector(`[name="${name}"]`).value);
      }
      told(await act(body));
    },
    { once: true },
  );
  dialog.showModal();
}

function showNames(list, names) {
  const shown = names.slice(0, NAMES_SHOWN);
  if (names.length > shown.length) shown.push(fill(words.more_runs, { n: names.length - shown.length }));
  list.replaceChildren(
    ...shown.map((name) => {
      const item = document.createElement("li");
      item.textContent = name;
      return item;
    }),
  );
}

async function act(body) {
  try {
    const answer = await fetch(`${API}/runs/bulk`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const facts = await answer.json();
    return answer.ok ? facts : { done: [], failed: [], error: facts.error.message };
  } catch {
    return { done: [], failed: [], error: words.not_saved };
  }
}

// The outcome in the page: how many were changed, and by name which were not and why.
export function showOutcome(place, action, outcome, names) {
  const line = document.createElement("p");
  line.textContent = outcome.error ?? fill(words[`bulk_${action}`], { n: outcome.done.length });
  const list = document.createElement("ul");
  for (const failure of outcome.failed) {
    const item = document.createElement("li");
    item.textContent = fill(words.bulk_failed, { name: names.get(failure.run) ?? failure.run, why: failure.message });
    list.append(item);
  }
  place.replaceChildren(line, ...(outcome.failed.length ? [list] : []));
  place.classList.toggle("notice-wrong", Boolean(outcome.error) || outcome.failed.length > 0);
  place.hidden = false;
}
