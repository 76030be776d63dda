// The runs that are selected, over pages, reloads and live rows: ids with names, for as long as the tab lives.

const KEPT = "trainyard-selection";
const MOST = 1000;

function read() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(KEPT) ?? "[]"));
  } catch {
    return new Map();
  }
}

export const selected = read();

export function select(id, name) {
  if (selected.size < MOST) selected.set(id, name);
  keep();
}

export function deselect(id) {
  selected.delete(id);
  keep();
}

export function deselectAll() {
  selected.clear();
  keep();
}

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify([...selected]));
  } catch {
    // not kept, then
  }
}
