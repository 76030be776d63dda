// Plotly, asked for once the page's own scripts have asked for their points: it is large, and takes as long to compile as
// they to arrive. The page names its address in a preload link. Null when it cannot be loaded.

const { href } = document.querySelector("link[data-plotly]");

export const plotly = new Promise((resolve) => {
  const script = document.createElement("script");
  script.src = href;
  script.addEventListener("load", () => resolve(window.Plotly));
  script.addEventListener("error", () => resolve(null));
  setTimeout(() => document.head.append(script)); // the first questions for points go out before it
});
