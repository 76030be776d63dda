// Smoothing: TensorBoard's causal, debiased exponential moving average, over the finite points in their order,
//
//   m_n = s m_(n-1) + (1 - s) v_n,   m_0 = 0,   smoothed_n = m_n / (1 - s^n)
//
// after Kingma and Ba 2015, section 3. Over all points it is exact. A reduced series does not have them all: there the
// server smooths before it reduces (app/smooth.py), and `approximate` only stands in until its answer is here.

export const FEWEST = 60; // a series of fewer points is drawn as it was measured

export function smoothed(values, s) {
  return continued(values, s, 0, 0);
}

// Goes on behind `count` points whose smoothed value was `last`.
export function continued(values, s, last, count) {
  let mean = last * (1 - s ** count);
  let n = count;
  return values.map((value) => {
    if (!Number.isFinite(value)) return NaN;
    mean = s * mean + (1 - s) * value;
    n += 1;
    return mean / (1 - s ** n);
  });
}

// Over the points that a reduction kept of `total`: a point weighs as much as those that it stands for, by its distance.
export function approximate(steps, values, s, total) {
  const density = (total - 1) / Math.max(1, steps.at(-1) - steps[0]);
  let mean = 0;
  let weight = 0;
  let before = null;
  return values.map((value, i) => {
    if (!Number.isFinite(value)) return NaN;
    const keep = before === null ? s : s ** Math.max(1, (steps[i] - before) * density);
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    before = steps[i];
    return mean / weight;
  });
}
