// The runs page: live rows, selection, editing in place, keys.

import { askAndAct, showOutcome } from "./bulk.js";
import { openEditor } from "./editor.js";
import { fill } from "./format.js";
import { onKeys } from "./keys.js";
import { mergeRows, showMetrics } from "./rows.js";
import { showRun, stateKey } from "./runview.js";
import { deselect, deselectAll, select, selected } from "./selection.js";
import { openStream } from "./stream.js";
import { words } from "./words.js";

const REFRESH_MS = 1000; // rows are read anew at most so often
const SLOW_MS = 10_000; // while nothing but figures changes
const states = new Map();

// -- selection --------------------------------------------------------------------------------------------------------

function boxes() {
  return [...document.querySelectorAll('[data-compare-form] input[name="run"]')];
}

function nameOf(box) {
  return box.closest("tr").querySelector('[data-field="name"]').textContent;
}

function showSelection() {
  const label = document.querySelector("[data-selected]");
  if (!label) return;
  const all = boxes();
  for (const box of all) box.checked = selected.has(box.value);
  const here = all.filter((box) => box.checked).length;
  const elsewhere = selected.size - here;
  const text = elsewhere ? words.selected_elsewhere : words.selected;
  label.textContent = selected.size ? fill(text, { n: selected.size, other: elsewhere }) : "";
  for (const button of document.querySelectorAll("[data-compare-button], [data-bulk-action]")) {
    button.disabled = selected.size === 0;
  }
  document.querySelector("[data-deselect]").hidden = selected.size === 0;
  document.querySelector("[data-bulk]").classList.toggle("has-selection", selected.size > 0);
  const head = document.querySelector("[data-check-all]");
  head.checked = here > 0 && here === all.length;
  head.indeterminate = here > 0 && here < all.length;
}

function check(box, on) {
  if (on) select(box.value, nameOf(box));
  else deselect(box.value);
}

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-check-all]")) {
    for (const box of boxes()) check(box, event.target.checked);
  } else if (event.target.matches('[data-compare-form] input[name="run"]')) {
    check(event.target, event.target.checked);
  } else {
    return;
  }
  showSelection();
});

function compare() {
  if (!selected.size) return;
  // In the order of the page, then what is selected on others.
  const here = boxes().map((box) => box.value).filter((id) => selected.has(id));
  const ids = new Set([...here, ...selected.keys()]);
  const form = document.querySelector("[data-compare-form]");
  location.href = `${form.getAttribute("action")}?${new URLSearchParams([...ids].map((id) => ["run", id]))}`;
}

function bulk(action) {
  const names = new Map(selected);
  askAndAct(action, names, (outcome) => {
    showOutcome(document.querySelector("[data-outcome]"), action, outcome, names);
    if (action === "delete") for (const id of outcome.done) deselect(id);
    showSelection();
    refresh();
  });
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-compare-form]")) return;
  event.preventDefault();
  const action = event.submitter?.dataset.bulkAction;
  if (!selected.size) return;
  if (action) bulk(action);
  else compare();
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-edit]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    openEditor(link, () => refresh());
  }
  if (event.target.closest("[data-deselect]")) {
    deselectAll();
    showSelection();
    document.querySelector("[data-check-all]").focus();
  }
});

// -- live -------------------------------------------------------------------------------------------------------------

let waiting = null;
let dueAt = 0;
let refreshedAt = 0;
let reading = false;

// Reads the page again, soon, and merges it into this one. Calls in between count as one.
function refresh(within = REFRESH_MS) {
  const due = Math.max(Date.now() + 150, refreshedAt + within);
  if (waiting && dueAt <= due) return;
  clearTimeout(waiting);
  dueAt = due;
  waiting = setTimeout(read, due - Date.now());
}

async function read() {
  waiting = null;
  refreshedAt = Date.now();
  if (reading) return refresh();
  reading = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.ok || answer.status === 422) merge(await answer.text()); // 422: a query that cannot be read
  } catch {
    // the server is away: the stream says so, and reads again once it is back
  }
  reading = false;
}

function merge(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const part of document.querySelectorAll("[data-fragment]")) {
    const other = fresh.querySelector(`[data-fragment="${CSS.escape(part.dataset.fragment)}"]`);
    const [body, freshBody] = [part, other].map((element) => element?.querySelector(".runs tbody"));
    if (body && freshBody) {
      mergeRows(body, freshBody);
      mergePaging(part, other);
    } else if (other && !part.isEqualNode(other) && !part.querySelector("[data-editor-form]")) {
      part.replaceChildren(...document.importNode(other, true).childNodes);
    }
  }
  showSelection();
}

// Links to the neighbouring pages, which new and deleted runs move.
function mergePaging(part, other) {
  const links = (element) => [...element.querySelectorAll(".table-end a.button")];
  const [old, fresh] = [links(part), links(other)];
  if (old.length === fresh.length) old.forEach((link, i) => link.setAttribute("href", fresh[i].getAttribute("href")));
  else {
    for (const link of old) link.remove();
    part.querySelector(".table-end").append(...fresh.map((link) => document.importNode(link, true)));
  }
}

openStream([], {}, {
  open: (again) => again && refresh(),
  run: (run) => {
    const known = document.querySelector(`tr[data-run="${CSS.escape(run.id)}"]`);
    const state = `${stateKey(run)}|${run.tags.join("|")}`;
    showRun(run);
    showMetrics(run);
    const before = states.get(run.id) ?? (known ? state : null);
    // A metric that moved may change the order, or which runs fit: that can wait.
    refresh(before === state ? SLOW_MS : REFRESH_MS);
    states.set(run.id, state);
  },
  gone: ({ run }) => {
    deselect(run);
    states.delete(run);
    showSelection();
    refresh();
  },
});

// -- keys -------------------------------------------------------------------------------------------------------------

function focusedRow() {
  return document.activeElement?.closest("tr[data-run]");
}

function move(by) {
  const rows = [...document.querySelectorAll("tr[data-run]")];
  if (!rows.length) return;
  const at = rows.indexOf(focusedRow());
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by));
  rows[next].querySelector("[data-run-link]").focus();
}

onKeys({
  "/": () => {
    const search = document.querySelector("[data-search]");
    search?.focus();
    search?.select();
  },
  j: () => move(1),
  k: () => move(-1),
  x: () => focusedRow()?.querySelector('input[name="run"]').click(),
  e: () => focusedRow()?.querySelector("[data-edit]").click(),
  c: compare,
});

document.querySelector("[data-search]")?.addEventListener("keydown", (event) => {
  if (event.key === "Escape") event.target.blur();
});

showSelection();
