// What a step is on the x axis; the same sums as app/axes.py, for points that arrive live. And ends of axes: raw, as the
// address and the API have them, or as Plotly has them (dates as text, logarithms as exponents).

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

// A logarithmic clock makes no sense, and there it is a clock.
export const isLogX = (view) => view.logx && view.x !== "time";

export function shownRange(axis, log, [from, to]) {
  if (!log) return [shownX(axis, from), shownX(axis, to)];
  const high = to > 0 ? to : 1;
  return [Math.log10(from > 0 ? from : Math.min(1, high / 1000)), Math.log10(high)];
}

export function rawRange(axis, log, range) {
  const ends = range.map((end) => (log ? 10 ** Number(end) : rawX(axis, end)));
  return [Math.min(...ends), Math.max(...ends)];
}

// The place of x in a rising column: the index of the nearest point.
export function nearest(column, x) {
  let [low, high] = [0, column.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - column[low - 1] <= column[low] - x ? low - 1 : low;
}
