// The colours of the theme, as Plotly wants them: resolved, since it knows no custom properties.

const NAMES = ["surface", "ink", "muted", "line", "line-strong", "grid", "signal"];
const RUN_COLOURS = 8;

export function readTokens() {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const tokens = Object.fromEntries(NAMES.map((name) => [name, colour(name)]));
  tokens.runs = Array.from({ length: RUN_COLOURS }, (_, i) => colour(`run-${i}`));
  tokens.font = getComputedStyle(document.body).fontFamily;
  probe.remove();
  return tokens;
}
