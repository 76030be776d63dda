// Sorting the summary in place. The server sorts in the same way, from the same parameter of the address.

const numbers = (key) => key !== "name";

function place(header) {
  return [...header.parentElement.children].indexOf(header);
}

function compare(a, b, numeric) {
  return numeric ? Number(a) - Number(b) : a.localeCompare(b);
}

// `wanted` is a column's key, with a leading minus for falling order; rows without a value come last.
function sortRows(table, header, wanted) {
  const column = place(header);
  const sign = wanted.startsWith("-") ? -1 : 1;
  const numeric = numbers(wanted.replace(/^-/, ""));
  const body = table.tBodies[0];
  const value = (row) => row.children[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (!left || !right) return (left ? 0 : 1) - (right ? 0 : 1);
    return sign * compare(left, right, numeric);
  });
  body.append(...rows);
}

function mark(table, header, wanted) {
  for (const other of table.querySelectorAll("th[aria-sort]")) {
    const button = other.querySelector("button");
    if (other !== header) button.value = button.dataset.first;
    other.removeAttribute("aria-sort");
  }
  header.setAttribute("aria-sort", wanted.startsWith("-") ? "descending" : "ascending");
  const button = header.querySelector("button");
  button.value = wanted.startsWith("-") ? wanted.slice(1) : `-${wanted}`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-summary] button.sort");
  if (!button) return;
  event.preventDefault();
  const wanted = button.value;
  const header = button.closest("th");
  const table = button.closest("table");
  sortRows(table, header, wanted);
  mark(table, header, wanted);
  const url = new URL(location.href);
  url.searchParams.set("sort", wanted);
  history.replaceState(history.state, "", url);
});
