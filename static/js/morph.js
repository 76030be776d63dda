// Makes one element like another, changing only what differs: focus, scroll, selection and what was opened stay.

// Attributes that belong to the person, not to the server.
const THEIRS = new Set(["open"]);

function sameAttributes(from, to) {
  for (const { name, value } of to.attributes) {
    if (!THEIRS.has(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (!THEIRS.has(name) && !to.hasAttribute(name)) from.removeAttribute(name);
  }
}

// `from` is in the page, `to` is fresh from the server. What scripts draw inside [data-drawn] is left alone.
export function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(document.importNode(to, true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  sameAttributes(from, to);
  if ("drawn" in from.dataset) return;
  const [old, fresh] = [[...from.childNodes], [...to.childNodes]];
  fresh.forEach((node, i) => (i < old.length ? morph(old[i], node) : from.append(document.importNode(node, true))));
  for (const node of old.slice(fresh.length)) node.remove();
}
