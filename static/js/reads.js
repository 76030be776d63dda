// Reads of points from the API: a few at once, so that the event stream and the page keep their connections.

import { API } from "./page.js";

const AT_ONCE = 3;
const queue = [];
let running = 0;

// The answer of GET `path?query`. Rejects with AbortError once `signal` is aborted, also while it still waits.
export function read(path, query, signal) {
  return new Promise((resolve, reject) => {
    queue.push({ path, query, signal, resolve, reject });
    next();
  });
}

function next() {
  while (running < AT_ONCE && queue.length) {
    const asked = queue.shift();
    if (asked.signal?.aborted) {
      asked.reject(asked.signal.reason);
      continue;
    }
    running += 1;
    fetchJson(asked)
      .then(asked.resolve, asked.reject)
      .finally(() => {
        running -= 1;
        next();
      });
  }
}

async function fetchJson({ path, query, signal }) {
  const answer = await fetch(`${API}/${path}?${new URLSearchParams(query)}`, { signal });
  if (answer.ok) return answer.json();
  const { error } = await answer.json().catch(() => ({}));
  throw new Error(error?.message ?? String(answer.status));
}
