// The form of a new run: the chosen model's options, its recipe for untouched fields, what will run, early messages.

import { count, fill } from "./format.js";
import { pageData } from "./page.js";

const data = pageData();
const form = document.querySelector("[data-run-form]");
const [model, dataset] = ["model", "dataset"].map((name) => form.elements.namedItem(name));
const chosen = ["model", "dataset"]; // they choose the recipe, and are not of it
const touched = new Set();

const recipe = () => data.models[model.value]?.recipes[dataset.value] ?? { fields: {}, outcome: "" };
const usual = () => ({ ...data.defaults, ...recipe().fields });

// A field counts as touched when its value is not the one of the recipe that the page came with.
for (const [name, value] of Object.entries(usual())) {
  if (data.given[name] !== undefined && data.given[name] !== value) touched.add(name);
}

function fillRecipe() {
  for (const [name, value] of Object.entries(usual())) {
    const field = form.elements.namedItem(name);
    if (!field || touched.has(name) || chosen.includes(name)) continue;
    field.value = value;
    // What a recipe sets is not left folded away.
    if (value !== data.defaults[name]) field.closest("details")?.setAttribute("open", "");
  }
  for (const group of form.querySelectorAll("[data-options]")) {
    group.toggleAttribute("data-chosen", group.dataset.options === model.value);
  }
}

// How well the recipe learnt, as long as the form still says it.
function showOutcome() {
  const parts = ["name", "experiment", "tags", "seeds", "seed", "device", "devices", ...chosen];
  const kept = Object.entries(usual()).every(([name, value]) => {
    const other = name.startsWith("options.") && !name.startsWith(`options.${model.value}.`);
    return other || parts.includes(name) || form.elements.namedItem(name)?.value === value;
  });
  form.querySelector("[data-outcome]").textContent = kept ? recipe().outcome : "";
}

function whole(name) {
  const value = Number(form.elements.namedItem(name).value);
  return Number.isInteger(value) && value > 0 ? value : null;
}

// Training images that are not held out for validation.
function countRest(set) {
  if (!set || form.elements.namedItem("val_from").value === "test") return set?.train_size;
  return set.train_size - (whole("val_size") ?? set.held_out);
}

function showSummary() {
  const set = data.datasets[form.elements.namedItem("dataset").value];
  const [epochs, batch] = [whole("epochs"), whole("batch_size")];
  const images = form.elements.namedItem("train_size").value === "" ? countRest(set) : whole("train_size");
  const out = form.querySelector("[data-summary]");
  if (!set || !epochs || !batch || !images || !data.models[model.value]) {
    out.textContent = "";
    return;
  }
  const perEpoch = Math.ceil(images / batch);
  out.textContent = fill(data.summary, {
    model: data.models[model.value].title,
    data: set.title,
    epochs: count(epochs),
    per_epoch: count(perEpoch),
    batch: count(batch),
    steps: count(epochs * perEpoch),
  });
}

function problem(field) {
  const { validity } = field;
  if (validity.badInput) return data.messages.number;
  if (validity.rangeUnderflow) return fill(data.messages.min, { n: field.min });
  if (validity.rangeOverflow) return fill(data.messages.max, { n: field.max });
  if (validity.stepMismatch) return data.messages.whole;
  return "";
}

function showProblem(field, text) {
  const frame = field.closest(".field");
  const place = frame.querySelector(".field-error");
  frame.classList.toggle("field-wrong", text !== "");
  place.hidden = text === "";
  place.textContent = text;
  if (text) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

form.addEventListener("input", (event) => {
  touched.add(event.target.name);
  if (event.target.getAttribute("aria-invalid")) showProblem(event.target, problem(event.target));
  showSummary();
  showOutcome();
});
form.addEventListener("change", (event) => {
  if (event.target === model || event.target === dataset) fillRecipe();
  if (event.target !== model) showProblem(event.target, problem(event.target));
  showSummary();
  showOutcome();
});

fillRecipe();
showSummary();
showOutcome();
