// The panels of a comparison: choices that need no new page, and figures that follow runs while they train.

import { refreshFragments } from "./page.js";
import "./summary.js";
import { setView, writeAddress } from "./view.js";

const FOLLOW_MS = 4000;
let following = null;
let askedAt = 0;
let took = 0;

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

// The figures of runs that train (their states are followed with the charts): every few seconds, and where the page takes
// long to make, so seldom that the server has a tenth of its time for it at most.
document.addEventListener("runchange", () => {
  if (following || document.hidden) return;
  following = setTimeout(() => {
    following = null;
    askedAt = performance.now();
    refreshFragments(() => {}, 0);
  }, Math.max(FOLLOW_MS, 10 * took));
});

document.addEventListener("refreshed", () => {
  if (askedAt) took = performance.now() - askedAt;
  askedAt = 0;
});
