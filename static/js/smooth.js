// Causal, debiased exponential moving average over steps: after Kingma and Ba 2015, section 3, with the weight of a point
// falling by the factor `s` a step, so that points left out by the reduction weigh as they would have.

export function smoothed(steps, values, s) {
  const out = new Array(values.length);
  let mean = 0;
  let weight = 0;
  let before = null;
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) {
      out[i] = NaN;
      continue;
    }
    const keep = before === null ? 0 : s ** Math.max(1, steps[i] - before);
    mean = keep * mean + (1 - s) * values[i];
    weight = keep * weight + (1 - s);
    out[i] = mean / weight;
    before = steps[i];
  }
  return out;
}
