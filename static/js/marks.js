// The looks of lines, and their keys in a legend: a short piece of the line, as the chart draws it.

export const COLOURS = 8; // as app/palette.py
export const DASHES = ["solid", "dash", "dot", "dashdot"];
const MARKS = { dash: "5 3", "5px,3px": "5 3", dot: "1.5 2.5", dashdot: "6 2 1.5 2" }; // by Plotly's dashes

// An entry of a legend: the mark of its line, and its name.
export function legendItem(name, text, dash) {
  const item = document.createElement("li");
  item.className = name;
  const bdi = document.createElement("bdi");
  bdi.textContent = text;
  item.append(lineMark(dash), bdi);
  return item;
}

// A short piece of the line, as a key; its colour is the element's.
export function lineMark(dash) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 22 8");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M1 4H21");
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "2");
  if (MARKS[dash]) path.setAttribute("stroke-dasharray", MARKS[dash]);
  svg.append(path);
  return svg;
}
