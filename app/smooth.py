"""Smoothing of a whole series before it is reduced: over the points that are left it would be another curve."""

from __future__ import annotations

import numpy as np

from app.chunks import Floats

MAX_SMOOTH = 0.999


def smooth_values(values: Floats, weight: float) -> Floats:
    """TensorBoard's causal, debiased exponential moving average [N] float64, over the finite values in their order:

        m_n = weight m_(n-1) + (1 - weight) v_n,   m_0 = 0,   smoothed_n = m_n / (1 - weight^n)

    after Kingma and Ba 2015, section 3. What is not finite stays where it is and weighs nothing. `weight` is in
    0..MAX_SMOOTH. static/js/smooth.js has the same for series that a page holds whole.
    """
    if not weight or not len(values):
        return values
    from scipy.signal import lfilter  # 0.3 s to import, and most processes never smooth

    finite = np.isfinite(values)
    means = lfilter([1 - weight], [1, -weight], values[finite])
    smoothed = values.copy()
    smoothed[finite] = means / (1 - weight ** np.arange(1, len(means) + 1))
    return smoothed
