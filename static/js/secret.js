// A new token, shown once: copied with one press, or marked for copying by hand where a page may not (without https).

import { words } from "./words.js";

const place = document.querySelector("[data-secret]");
if (place) {
  const [text, button] = [place.querySelector("input"), place.querySelector("[data-copy]")];
  const title = button.textContent;
  button.hidden = false;
  text.addEventListener("focus", () => text.select());
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.value);
      button.textContent = words.copied;
    } catch {
      text.focus();
      text.select();
      button.textContent = words.copy_marked;
    }
    setTimeout(() => (button.textContent = title), 3000);
  });
}
