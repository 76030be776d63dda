// On every page: the theme switch, relative times, forms that are sent once and ask before they destroy.

import { ago } from "./format.js";
import "./keys.js";
import { words } from "./words.js";

const CHOICES = ["system", "light", "dark"];
const root = document.documentElement;
const themeSwitch = document.querySelector("[data-theme-switch]");

function nameTheme() {
  themeSwitch.title = words[`theme_${root.dataset.choice}`];
  themeSwitch.setAttribute("aria-label", themeSwitch.title);
}

themeSwitch.hidden = false;
nameTheme();
themeSwitch.addEventListener("click", () => {
  const choice = CHOICES[(CHOICES.indexOf(root.dataset.choice) + 1) % CHOICES.length];
  root.dataset.choice = choice; // theme.js does the rest
  nameTheme();
  try {
    if (choice === "system") localStorage.removeItem("trainyard-theme");
    else localStorage.setItem("trainyard-theme", choice);
  } catch {
    // not kept, then
  }
});

setInterval(() => {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = ago(time.dateTime);
    if (time.textContent !== text) time.textContent = text;
  }
}, 5000);

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) {
    event.preventDefault();
    return;
  }
  if ("once" in form.dataset) {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  }
});

window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("[data-sent]")) delete form.dataset.sent;
});

for (const form of document.querySelectorAll("[data-autosubmit]")) {
  for (const select of form.querySelectorAll("select")) {
    select.addEventListener("change", () => form.requestSubmit());
  }
}

document.querySelector('[aria-invalid="true"]')?.focus();
