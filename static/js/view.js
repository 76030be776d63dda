// The state of the charts. The address holds all of it (app/web/view.py reads it): every control calls `setView`, which
// writes the address, and opening that elsewhere shows the same. Whoever draws listens to "viewchange" on the document;
// its `detail` is the set of names that changed.

import { pageData } from "./page.js";

const DEFAULTS = {
  x: "step", y: [], smooth: 0, group: [], band: "std", members: false, log: [], logx: false, hide: [], only: [],
  full: null, zoom: null, ylim: [], baseline: null, find: "", closed: [],
};
const WRITE_MS = 150; // browsers refuse more than some hundred changes of the address in half a minute

export const view = { ...structuredClone(DEFAULTS), ...pageData().view };

let timer = null;

export function setView(changes) {
  const changed = Object.keys(changes).filter((name) => JSON.stringify(changes[name]) !== JSON.stringify(view[name]));
  if (!changed.length) return;
  Object.assign(view, changes);
  clearTimeout(timer);
  timer = setTimeout(writeAddress, WRITE_MS);
  document.dispatchEvent(new CustomEvent("viewchange", { detail: new Set(changed) }));
}

// The address of what is shown right now.
export function address() {
  const url = new URL(location.href);
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    url.searchParams.delete(name);
    if (JSON.stringify(view[name]) === JSON.stringify(usual)) continue;
    for (const text of asTexts(view[name])) url.searchParams.append(name, text);
  }
  return url;
}

export function writeAddress() {
  clearTimeout(timer);
  history.replaceState(null, "", address());
}

window.addEventListener("pagehide", writeAddress);

// Lists repeat their name; a window is its ends; a flag is 1.
function asTexts(value) {
  if (value === true) return ["1"];
  if (!Array.isArray(value)) return [String(value)];
  return value.every((part) => typeof part === "number") ? [value.join(",")] : value;
}

export const isShown = (run) => (view.only.length ? view.only.includes(run) : !view.hide.includes(run));

// Shows exactly these of all runs, in the shorter of two ways.
export function showRuns(shown, all) {
  const hidden = all.filter((id) => !shown.includes(id));
  if (shown.length && shown.length < hidden.length) setView({ only: shown, hide: [] });
  else setView({ only: [], hide: hidden });
}

// The list with the item in it, or without it.
export function toggled(list, item, on = !list.includes(item)) {
  return on ? [...list.filter((one) => one !== item), item] : list.filter((one) => one !== item);
}
