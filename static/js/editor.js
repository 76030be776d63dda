// Tags and notes of a run, edited in its row. Enter saves, Escape cancels, an error stays beside what was typed.

import { API } from "./page.js";
import { words } from "./words.js";

const template = document.querySelector("template[data-editor]");

// Opens the editor in the link's cell; `saved(run)` is called with the API's answer.
export function openEditor(link, saved) {
  const cell = link.closest("th, td");
  if (cell.querySelector("[data-editor-form]")) return;
  const form = template.content.firstElementChild.cloneNode(true);
  const error = form.querySelector(".field-error");
  const { tags, notes } = form.elements;
  tags.value = link.dataset.tags;
  notes.value = link.dataset.notes;
  const about = cell.querySelector(".about-line");
  about.hidden = true;
  cell.append(form);
  tags.focus();
  tags.select();

  function close() {
    form.remove();
    about.hidden = false;
    link.focus({ preventScroll: true });
  }

  async function save() {
    if (form.dataset.sent) return;
    form.dataset.sent = "yes";
    const body = { tags: split(tags.value), notes: notes.value };
    const failure = await patch(cell.parentElement.dataset.run, body, (run) => {
      link.dataset.tags = run.tags.join(", ");
      link.dataset.notes = run.notes;
      close();
      saved(run);
    });
    delete form.dataset.sent;
    error.textContent = failure;
    error.hidden = !failure;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    event.stopPropagation();
    save();
  });
  form.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // Enter and Escape belong to the input method then
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && event.target === tags) save();
    else if (event.key === "Enter" && event.target === notes && !event.shiftKey) save();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  form.querySelector("[data-editor-cancel]").addEventListener("click", close);
  form.querySelector("button.primary").addEventListener("click", (event) => {
    event.preventDefault();
    save();
  });
}

export function split(text) {
  return [...new Set(text.split(/[,，]/).map((tag) => tag.trim()).filter(Boolean))];
}

// Why it failed, empty when it did not.
async function patch(run, body, done) {
  try {
    const answer = await fetch(`${API}/runs/${encodeURIComponent(run)}`, {
      method: "PATCH",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const facts = await answer.json();
    if (!answer.ok) return facts.error.message;
    done(facts);
    return "";
  } catch {
    return words.not_saved;
  }
}
