// On every page: the theme switch, relative times, forms that are sent once and ask before they destroy.

import { ago } from "./format.js";

const root = document.documentElement;
const themeSwitch = document.querySelector("[data-theme-switch]");
themeSwitch.hidden = false;
themeSwitch.addEventListener("click", () => {
  const theme = root.dataset.theme === "dark" ? "light" : "dark";
  root.dataset.theme = theme;
  root.dataset.chosen = "yes";
  try {
    localStorage.setItem("trainyard-theme", theme);
  } catch {
    // not kept, then
  }
  document.dispatchEvent(new Event("themechange"));
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
