// The panels of a comparison: choices that need no new page, and figures that follow runs while they train.

import { refreshFragments } from "./page.js";
import "./summary.js";
import { setView, writeAddress } from "./view.js";

const FOLLOW_MS = 4000;
let following = null;

// Puts one parameter into the address; no values take it out.
function setParameter(name, values) {
  const url = new URL(location.href);
  url.searchParams.delete(name);
  for (const value of values) url.searchParams.append(name, value);
  history.replaceState(history.state, "", url);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.soft) return;
  event.preventDefault();
  const given = new FormData(form, event.submitter);
  for (const name of form.dataset.soft.split(" ")) {
    const values = given.getAll(name).filter(Boolean);
    if (name === "baseline") setView({ baseline: values[0] ?? null });
    else if (name === "group") setView({ group: values });
    else setParameter(name, values);
  }
  writeAddress();
  refreshFragments(() => {}, 0);
});

// The grouping can be chosen beside the charts too; verdict and statistics follow it.
document.addEventListener("viewchange", ({ detail }) => {
  if (!detail.has("group") && !detail.has("baseline")) return;
  writeAddress();
  refreshFragments(() => {}, 0);
});

// The figures of a run that trains; the state of a run is followed by the charts.
document.addEventListener("runchange", () => {
  if (following || document.hidden) return;
  following = setTimeout(() => {
    following = null;
    refreshFragments(() => {}, 0);
  }, FOLLOW_MS);
});
