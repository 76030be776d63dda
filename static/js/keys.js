// Keys for those who do not want the mouse: `?` opens the help on every page. Never while someone types.

const help = document.querySelector("[data-help]");

// `actions` maps a key to a function; with a dialog open, in a field or with Ctrl, Alt or Meta, nothing happens.
export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    if (action(event) !== false) event.preventDefault();
  });
}

function isTyping(element) {
  return element.isContentEditable || element.matches("textarea, select, input:not([type=checkbox]):not([type=radio])");
}

function openHelp() {
  help.showModal();
}

if (help) {
  onKeys({ "?": openHelp });
  for (const button of document.querySelectorAll("[data-help-open]")) {
    button.hidden = false;
    button.addEventListener("click", openHelp);
  }
  help.addEventListener("click", (event) => {
    if (event.target === help) help.close(); // beside the dialog
  });
}
