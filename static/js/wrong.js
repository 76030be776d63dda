// "What they got wrong": fetched from its own page into a run's or a comparison's, and changed without leaving it.
// The server writes all of its HTML; without scripts the same links and forms lead to that page.

import { morph } from "./morph.js";
import { showRun } from "./runview.js";
import { openStream } from "./stream.js";

const PREFIX = "wrong_";
const CELL_NAMES = new Set(["wrong_of", "wrong_truth", "wrong_answer"]); // of the cell that was chosen before
const REFRESH_MS = 1500;
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

const panel = () => document.querySelector("[data-wrong]");
const place = panel();
const isOwnPage = !place.dataset.src;
const home = new URL(place.dataset.src ?? location.href, location.href);
let asking = null;
let waiting = null;

// The panel's page for the runs of this one, with what this page's address says of the panel.
function currentUrl() {
  const url = new URL(home);
  if (isOwnPage) url.search = location.search;
  for (const [name, value] of new URL(location.href).searchParams) {
    if (name.startsWith(PREFIX)) url.searchParams.set(name, value);
  }
  return url;
}

// The address keeps the choice: of its own page all of it, of another page the panel's part.
function keepInAddress(url) {
  const address = new URL(location.href);
  for (const name of [...address.searchParams.keys()]) if (name.startsWith(PREFIX)) address.searchParams.delete(name);
  for (const [name, value] of url.searchParams) if (name.startsWith(PREFIX)) address.searchParams.set(name, value);
  history.replaceState(history.state, "", address);
}

async function show(url) {
  asking?.abort();
  const mine = (asking = new AbortController());
  panel().setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(url, { headers: { accept: "text/html" }, signal: mine.signal });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-wrong]");
    morph(panel(), fresh);
    settle();
    return true;
  } catch {
    return false; // what is there stays; the next choice or evaluation asks again
  } finally {
    if (asking === mine) panel().removeAttribute("aria-busy");
  }
}

async function go(url) {
  const shown = await show(url);
  if (!shown) return;
  keepInAddress(url);
  const target = url.hash && panel().querySelector(url.hash);
  if (target && target.getBoundingClientRect().top > innerHeight * 0.8) target.scrollIntoView({ block: "start" });
}

// What the markup cannot say: fields show what the server chose, and each matrix is one stop of the Tab key.
function settle() {
  for (const select of panel().querySelectorAll("select")) {
    for (const option of select.options) option.selected = option.defaultSelected;
  }
  for (const radio of panel().querySelectorAll("input[type=radio]")) radio.checked = radio.defaultChecked;
  for (const table of panel().querySelectorAll("[data-matrix]")) {
    const buttons = [...table.querySelectorAll("button")];
    const one = buttons.includes(document.activeElement) ? document.activeElement : buttons[0];
    for (const button of buttons) button.tabIndex = button === one ? 0 : -1;
  }
}

function moveInMatrix(button, [down, right]) {
  const table = button.closest("[data-matrix]");
  let cell = button.closest("td");
  do {
    const row = table.rows[cell.parentElement.rowIndex + down];
    cell = row?.cells[cell.cellIndex + right];
  } while (cell && !cell.querySelector("button"));
  const next = cell?.querySelector("button");
  if (!next) return;
  button.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-wrong] a");
  if (event.target.closest("[data-wrong-news]")) show(currentUrl());
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  const url = new URL(link.href);
  if (url.pathname !== home.pathname) return;
  event.preventDefault();
  go(url);
});

document.addEventListener("change", (event) => {
  const form = event.target.closest("[data-wrong-form]");
  if (!form) return;
  const url = addressOf(form);
  const other = panel().querySelector("[name=wrong_show]");
  if (other && !form.contains(other)) url.searchParams.set("wrong_show", other.value);
  go(url);
});
document.addEventListener("submit", (event) => {
  if (!event.target.closest("[data-wrong-form]")) return;
  event.preventDefault();
  if (event.submitter) go(addressOf(event.target, event.submitter)); // a cell of a matrix
});

function addressOf(form, submitter = null) {
  const url = new URL(form.action);
  for (const [name, value] of new FormData(form, submitter)) {
    if (value && value !== "last" && !(submitter && CELL_NAMES.has(name))) url.searchParams.append(name, value);
  }
  return url;
}

document.addEventListener("keydown", (event) => {
  const button = event.target.closest?.("[data-matrix] button");
  if (!button || !ARROWS[event.key]) return;
  event.preventDefault();
  moveInMatrix(button, ARROWS[event.key]);
});

// A new evaluation: shown at once, unless someone is at work in the panel, who is told of it.
document.addEventListener("runchange", ({ detail: run }) => {
  const shown = (panel().dataset.live ?? "").split(",").find((one) => one.startsWith(`${run.id}:`));
  const newest = run.summary["val/accuracy"]?.last_step;
  if (!shown || !newest || waiting) return;
  const seen = Math.max(Number(shown.split(":")[1]), Number(panel().dataset.newest ?? 0));
  if (newest <= seen) return;
  waiting = setTimeout(() => {
    waiting = null;
    const busy = panel().matches(":hover, :focus-within");
    panel().querySelector("[data-wrong-news]")?.toggleAttribute("hidden", !busy);
    if (!busy) show(currentUrl());
  }, REFRESH_MS);
});

if (isOwnPage) {
  settle();
  openStream([], {}, { run: showRun, open: (again) => again && show(currentUrl()) });
} else {
  const near = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      show(currentUrl());
    },
    { rootMargin: "600px" },
  );
  near.observe(place);
}
