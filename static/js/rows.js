// Brings the rows of a table up to date from the server's fresh page: what is open, focused or selected stays.

import { count, number, percent } from "./format.js";
import { morph } from "./morph.js";

const key = (row) => row.dataset.run;

// Rows keep their elements; new ones are put where they belong, those that are gone leave.
export function mergeRows(body, fresh) {
  const old = new Map([...body.rows].map((row) => [key(row), row]));
  const wanted = new Set([...fresh.rows].map(key));
  for (const [run, row] of old) if (!wanted.has(run)) row.remove();
  const focused = document.activeElement;
  let place = body.firstElementChild;
  for (const row of fresh.rows) {
    const mine = old.get(key(row));
    if (mine) mergeRow(mine, row);
    if (mine && mine === place) place = place.nextElementSibling;
    else body.insertBefore(mine ?? document.importNode(row, true), place);
  }
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

function mergeRow(row, fresh) {
  row.dataset.state = fresh.dataset.state;
  [...fresh.cells].forEach((cell, i) => {
    const mine = row.cells[i];
    if (mine && !mine.querySelector("[data-editor-form]")) morph(mine, cell);
  });
}

// A run's metrics as the stream tells them, in the columns that show some.
export function showMetrics(run) {
  const row = document.querySelector(`tr[data-run="${CSS.escape(run.id)}"]`);
  for (const cell of row?.querySelectorAll("[data-metric]") ?? []) {
    const value = run.summary[cell.dataset.metric]?.[cell.dataset.stat];
    const format = { percent, number, count: (steps) => (steps == null ? "–" : count(steps)) }[cell.dataset.format];
    const text = format(value);
    if (cell.textContent !== text) cell.textContent = text;
  }
}
