// What a run will need, asked of the server as one types: the line beside the button, and the layers folded above it.

import { morph } from "./morph.js";

const WAIT_MS = 500;
const AGAIN_MS = 3000; // while no worker has said what the network is
const LABELS = ["key", "name", "experiment", "tags", "seeds"]; // of no interest to a network

const form = document.querySelector("[data-run-form]");
const address = form.getAttribute("data-preflight-src"); // form.dataset is its field of that name
let waiting = null;
let asking = null;
let told = null;

function currentQuestion() {
  const given = new URLSearchParams(new FormData(form));
  for (const name of LABELS) given.delete(name);
  return given;
}

function put(fragment) {
  for (const part of form.querySelectorAll("[data-preflight]")) {
    const fresh = fragment.querySelector(`[data-preflight="${part.dataset.preflight}"]`);
    if (fresh) morph(part, fresh);
  }
}

async function ask() {
  const question = currentQuestion();
  asking?.abort();
  const mine = (asking = new AbortController());
  try {
    const answer = await fetch(address, { method: "POST", body: question, signal: mine.signal });
    if (!answer.ok) throw new Error(`${answer.status}`);
    put(new DOMParser().parseFromString(await answer.text(), "text/html"));
    const isOpen = form.querySelector("[data-again]") !== null;
    told = isOpen ? null : question.toString();
    if (isOpen) askAgain();
    form.classList.remove("preflight-busy");
  } catch {
    // a newer question is on its way, or the server is away: what is there stays greyed out until the next change
  }
}

function askAgain() {
  clearTimeout(waiting);
  waiting = setTimeout(() => (document.hidden ? askAgain() : ask()), AGAIN_MS);
}

function askSoon() {
  const isTold = currentQuestion().toString() === told;
  form.classList.toggle("preflight-busy", !isTold);
  clearTimeout(waiting);
  if (!isTold) waiting = setTimeout(ask, WAIT_MS);
}

if (address) { // none for those who may not start runs
  form.addEventListener("input", askSoon);
  form.addEventListener("change", askSoon);
  ask();
}
