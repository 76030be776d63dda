// Makes one element like another, changing only what differs: focus, scroll, selection and what was opened stay.

// Attributes that belong to the person, not to the server: what is open, and that a form was sent.
const THEIRS = new Set(["open", "data-sent"]);

// `from` is in the page, `to` is fresh from the server. What scripts draw inside [data-drawn] is left alone.
export function morph(from, to) {
  const focused = document.activeElement;
  change(from, to);
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
}

function change(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(document.importNode(to, true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  changeAttributes(from, to);
  if ("drawn" in from.dataset) return;
  if (to.children.length && [...to.children].every((child) => child.dataset.key)) changeByKey(from, to);
  else changeInOrder(from, to);
}

function changeAttributes(from, to) {
  for (const { name, value } of to.attributes) {
    if (!THEIRS.has(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (!THEIRS.has(name) && !to.hasAttribute(name)) from.removeAttribute(name);
  }
}

function changeInOrder(from, to) {
  const [old, fresh] = [[...from.childNodes], [...to.childNodes]];
  fresh.forEach((node, i) => (i < old.length ? change(old[i], node) : from.append(document.importNode(node, true))));
  for (const node of old.slice(fresh.length)) node.remove();
}

// Children with [data-key] move as they are: a row that changes its place stays the same row.
function changeByKey(from, to) {
  const old = new Map([...from.children].map((child) => [child.dataset.key, child]));
  [...to.children].forEach((node, i) => {
    const mine = old.get(node.dataset.key) ?? document.importNode(node, true);
    old.delete(node.dataset.key);
    if (from.children[i] !== mine) from.insertBefore(mine, from.children[i] ?? null);
    change(mine, node);
  });
  for (const child of old.values()) child.remove();
}
