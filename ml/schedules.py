"""The learning rate of each step as a function of the step alone, so that a resumed run needs no scheduler
state."""

from __future__ import annotations

import math

WARM_UP = 0.3  # share of the steps in which one-cycle rises


def learning_rate(schedule: str, peak: float, done: int, total: int, warmup: int = 0) -> float:
    """The rate of the step after `done` of `total` steps; `peak` is the spec's `lr`.

    In the first `warmup` steps it rises evenly, from peak / warmup to peak; the schedule has the steps after them.

    constant: peak.
    cosine: peak (1 + cos(pi done / total)) / 2 (Loshchilov and Hutter 2017, equation 5, without restarts).
    step: peak, a tenth of it from one half of the steps on, a hundredth from three quarters on.
    onecycle: from peak / 25 up to peak over the first 30 % of the steps, then down to peak / 250,000, along
    half a
        cosine each (Smith and Topin 2018, in PyTorch's OneCycleLR form). Momentum is not cycled.

    Raises:
        ValueError: no schedule has that name.
    """
    if done < warmup:
        return peak * (done + 1) / warmup
    done, total = done - warmup, total - warmup
    match schedule:
        case "constant":
            return peak
        case "cosine":
            return peak * (1 + math.cos(math.pi * done / total)) / 2
        case "step":
            return peak * (0.01 if 4 * done >= 3 * total else 0.1 if 2 * done >= total else 1.0)
        case "onecycle":
            return _one_cycle(peak, done, total)
    raise ValueError(f"unknown schedule {schedule!r}")


def _one_cycle(peak: float, done: int, total: int) -> float:
    start, end = peak / 25, peak / 250_000
    top = WARM_UP * total - 1  # the step of the peak, counted from 0; PyTorch's convention
    if top <= 0:  # three steps or fewer: no room to rise
        return _half_cosine(peak, end, done / max(total - 1, 1))
    if done <= top:
        return _half_cosine(start, peak, done / top)
    return _half_cosine(peak, end, (done - top) / (total - 1 - top))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
