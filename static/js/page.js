// The page's own data, and drawing parts of it anew from the server's HTML.

import { morph } from "./morph.js";

// The API behind the prefix that a proxy may give us.
export const API = `${document.documentElement.dataset.root}api/v1`;

export function pageData() {
  const element = document.getElementById("page-data");
  return element ? JSON.parse(element.textContent) : {};
}

let asked = null;
let latest = 0;

// Fetch this page again and swap its [data-fragment] parts (or, with data-morph, change
// only what differs in them): the templates stay the only place that writes HTML.
// Calls within `wait` ms count as one. `keep` runs after the swap.
export function refreshFragments(keep = () => {}, wait = 250) {
  if (asked) return;
  asked = setTimeout(async () => {
    asked = null;
    const mine = ++latest;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine !== latest) return; // asked before the last choice
      for (const part of document.querySelectorAll("[data-fragment]")) {
        const name = CSS.escape(part.dataset.fragment);
        const replacement = fresh.querySelector(`[data-fragment="${name}"]`);
        if (!replacement || replacement.isEqualNode(part)) continue;
        if ("morph" in part.dataset) morph(part, replacement);
        else swap(part, replacement);
      }
      keep();
      document.dispatchEvent(new Event("refreshed"));
    } catch {
      // the server is away: the stream says so, and the next event asks again
    }
  }, wait);
}

function swap(part, replacement) {
  const focused = document.activeElement;
  const label = part.contains(focused) ? focused.textContent.trim() : null;
  part.replaceWith(document.importNode(replacement, true));
  if (label) {
    const again = [...document.querySelectorAll("[data-fragment] button, [data-fragment] a")];
    again.find((element) => element.textContent.trim() === label)?.focus();
  }
}
