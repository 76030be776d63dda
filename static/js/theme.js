// Classic and blocking, so that the page is never painted in the wrong theme. `data-choice` is system, light or dark;
// `data-theme` is what that comes to. main.js has the switch.
(function () {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let stored = null;
  try {
    stored = localStorage.getItem("trainyard-theme");
  } catch {
    // storage may be closed; the system's theme will do
  }
  const apply = () => {
    const { choice } = root.dataset;
    const theme = choice === "system" ? (system.matches ? "dark" : "light") : choice;
    if (root.dataset.theme === theme) return;
    root.dataset.theme = theme;
    document.dispatchEvent(new Event("themechange"));
  };
  root.classList.add("js");
  root.dataset.choice = stored === "dark" || stored === "light" ? stored : "system";
  apply();
  system.addEventListener("change", apply);
  new MutationObserver(apply).observe(root, { attributeFilter: ["data-choice"] });
})();
