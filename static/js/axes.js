// What a step is on the x axis; the same sums as app/axes.py, for points that arrive live.

// The x of one point, or null where the run does not know this axis.
export function xOf(axis, run, step, time) {
  if (axis === "step") return step;
  if (axis === "time") return time;
  if (axis === "elapsed") return time - run.began;
  const perEpoch = run.steps_per_epoch;
  if (axis === "epoch") return perEpoch ? step / perEpoch : null;
  if (!run.batch_size) return null;
  if (!run.images || !perEpoch) return step * run.batch_size;
  return Math.floor(step / perEpoch) * run.images + (step % perEpoch) * run.batch_size;
}

// Plotly draws dates as they are written; written in local time they read as the clock on the wall.
export function shownX(axis, x) {
  if (axis !== "time") return x;
  const at = new Date(x * 1000);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 23);
}

// The inverse, for the ends of a zoomed window.
export function rawX(axis, shown) {
  if (axis !== "time") return Number(shown);
  const text = String(shown).replace(" ", "T");
  return new Date(text.length === 10 ? `${text}T00:00` : text).getTime() / 1000;
}
