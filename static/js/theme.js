// Classic and blocking, so that the page is never painted in the wrong theme.
(function () {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let stored = null;
  try {
    stored = localStorage.getItem("trainyard-theme");
  } catch {
    // storage may be closed; the system's theme will do
  }
  const follow = () => {
    root.dataset.theme = system.matches ? "dark" : "light";
    document.dispatchEvent(new Event("themechange"));
  };
  root.classList.add("js");
  if (stored === "dark" || stored === "light") {
    root.dataset.theme = stored;
  } else {
    follow();
    system.addEventListener("change", () => {
      if (!root.dataset.chosen) follow();
    });
  }
})();
