// What a chart draws: one line a run and metric, or one a group of runs. A line is {id, run, runs, metric, name, colour,
// dash, step, x, value, ...}: `value` is what is drawn, `raw` what stands faint behind it, `low` and `high` a band.

import { DASHES } from "./marks.js";
import { approximate, continued, FEWEST, smoothed } from "./smooth.js";
import { isShown, view } from "./view.js";

const isValidation = (metric) => metric.startsWith("val/") || metric.startsWith("test/");
export const isSmoothed = (metric) => view.smooth > 0 && !/(^|\/)(lr|learning_rate)$/.test(metric);

// The coarse series with the points of a zoomed window in their place.
function merged(one, fine) {
  if (!fine?.x.length) return one;
  const [low, high] = [fine.x[0], fine.x.at(-1)];
  const before = one.x.findIndex((x) => x >= low);
  const head = before < 0 ? one.x.length : before;
  const last = one.x.findLastIndex((x) => x <= high);
  const pick = (name) => [...one[name].slice(0, head), ...fine[name], ...one[name].slice(Math.max(head, last + 1))];
  return { ...one, step: pick("step"), x: pick("x"), value: pick("value"), whole: one };
}

// On a comparison colour and dash are the run's; on a run's own page the dash tells validation from training.
export function runLines(store, metrics, { single, tokens, nameOf }) {
  const lines = [];
  for (const run of store.runs.values()) {
    if (!isShown(run.id)) continue;
    for (const metric of metrics) {
      const coarse = store.get(run.id, metric);
      if (!coarse) continue;
      const one = merged(coarse, store.fine(run.id, metric));
      lines.push({
        id: `${run.id}\n${metric}`, run, runs: [run.id], metric, name: nameOf(run, metric),
        colour: tokens.runs[run.colour], colourIndex: run.colour,
        dash: single ? (isValidation(metric) ? "5px,3px" : "solid") : DASHES[run.dash],
        validation: isValidation(metric), step: one.step, x: one.x, value: one.value, total: coarse.total,
        shown: one.step.length, noAxis: coarse.noAxis, ...smoothLine(store, run, metric, one, coarse),
      });
    }
  }
  return lines;
}

function smoothLine(store, run, metric, one, coarse) {
  if (!isSmoothed(metric) || coarse.total <= FEWEST) return {};
  const raw = one.value;
  if (coarse.returned >= coarse.total) return { raw, value: smoothed(coarse.value, view.smooth), x: coarse.x, step: coarse.step, rawX: one.x };
  const exact = store.get(run.id, metric, view.smooth);
  if (!exact?.step.length) return { raw, value: approximate(one.step, one.value, view.smooth, coarse.total), rawX: one.x };
  const mean = merged(exact, store.fine(run.id, metric, view.smooth));
  const last = exact.step.at(-1);
  const fresh = coarse.step.findIndex((step) => step > last);
  if (fresh < 0) return { raw, value: mean.value, x: mean.x, step: mean.step, rawX: one.x };
  const next = continued(coarse.value.slice(fresh), view.smooth, exact.value.findLast(Number.isFinite) ?? 0, exact.total);
  return {
    raw, rawX: one.x, value: [...mean.value, ...next],
    x: [...mean.x, ...coarse.x.slice(fresh)], step: [...mean.step, ...coarse.step.slice(fresh)],
  };
}

export function groupLines(store, groups, metrics, { tokens, grouping }) {
  const lines = [];
  for (const metric of metrics) {
    for (const group of groups.get(metric)) {
      const known = grouping.find(group.key);
      if (!known || !group.runs.some(isShown)) continue;
      const { first, look } = known;
      lines.push({
        id: `${known.id}\n${metric}`, run: first, runs: group.runs, metric, group, name: known.name, colour: tokens.runs[look.colour], colourIndex: look.colour,
        dash: DASHES[look.dash], validation: isValidation(metric), step: group.step, x: group.x, value: group.mean,
        low: group.low, high: group.high, n: group.n, total: group.total, shown: group.step.length, noAxis: group.noAxis,
      });
    }
  }
  return lines;
}

export const memberCount = (line) => Math.max(0, ...line.n);
