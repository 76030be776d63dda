// The runs page: live rows, selection.

import { fill } from "./format.js";
import { pageData, refreshFragments } from "./page.js";
import { showRun, stateKey } from "./runview.js";
import { openStream } from "./stream.js";
import { words } from "./words.js";

const keys = new Map();
const checked = new Set();

function boxes() {
  return [...document.querySelectorAll('[data-compare-form] input[name="run"]')];
}

function showSelection() {
  const button = document.querySelector("[data-compare-button]");
  if (!button) return;
  const label = document.querySelector("[data-selected]");
  const all = boxes();
  button.disabled = checked.size === 0;
  label.textContent = checked.size ? fill(words.selected, { n: checked.size }) : "";
  const head = document.querySelector("[data-check-all]");
  const here = all.filter((box) => box.checked).length;
  head.checked = here > 0 && here === all.length;
  head.indeterminate = here > 0 && here < all.length;
}

function restoreSelection() {
  for (const box of boxes()) box.checked = checked.has(box.value);
  showSelection();
}

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-check-all]")) {
    for (const box of boxes()) box.checked = event.target.checked;
  }
  for (const box of boxes()) checked[box.checked ? "add" : "delete"](box.value);
  showSelection();
});

for (const box of boxes()) if (box.checked) checked.add(box.value);
showSelection();

const { refresh } = pageData();
const redraw = () => refresh && refreshFragments(restoreSelection);
openStream([], {}, {
  open: (again) => again && redraw(),
  run: (run) => {
    const known = document.querySelector(`tr[data-run="${CSS.escape(run.id)}"]`);
    const key = stateKey(run);
    showRun(run);
    if (!known || (keys.has(run.id) && keys.get(run.id) !== key)) redraw();
    keys.set(run.id, key);
  },
  gone: redraw,
});
