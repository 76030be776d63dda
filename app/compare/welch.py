"""Welch's t: test, interval, effect size, and how many seeds would show a difference.

n values a group, standard deviation s (with n - 1). scipy.special alone, imported when first needed: scipy.stats would
cost the web process another 46 MB and computes the same (tests/test_statistics.py compares them).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from app.chunks import Floats

LEVEL = 0.05  # two-sided; intervals have 1 - LEVEL
POWER = 0.8  # Cohen 1988, section 2.4
MAX_SEEDS = 10_000


class Welch(NamedTuple):
    """`difference` is the first mean minus the second, `error` its standard error, `df` after Welch and Satterthwaite.

    `p` is two-sided; NaN where neither group has any spread.
    """

    difference: float
    error: float
    df: float
    p: float

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        from scipy import special

        reach = float(special.stdtrit(self.df, 1 - LEVEL / 2)) * self.error
        return self.difference - reach, self.difference + reach


def compare_means(a: Floats, b: Floats) -> Welch:
    """Welch's t-test (Biometrika 1947) of two samples of at least two values each."""
    from scipy import special

    difference = float(a.mean() - b.mean())
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()))
    if math.sqrt(va + vb) <= 1e-12 * scale:  # equal values: what is left is rounding
        return Welch(difference, 0.0, math.nan, math.nan)
    error = math.sqrt(va + vb)
    df = float((va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)))
    return Welch(difference, error, df, 2 * float(special.stdtr(df, -abs(difference / error))))


def effect_size(a: Floats, b: Floats) -> float | None:
    """Hedges' g: the difference in pooled standard deviations, with the correction for small samples (Hedges 1981,
    equation 6e: 1 - 3 / (4 df - 1)). None without any spread."""
    df = len(a) + len(b) - 2
    if compare_means(a, b).error == 0:
        return None
    pooled = math.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / df)
    return float(a.mean() - b.mean()) / pooled * (1 - 3 / (4 * df - 1))


def power_of(difference: float, sa: float, sb: float, n: int, level: float = LEVEL) -> float:
    """The chance that n seeds a group give p <= level, when means differ by `difference` and spreads are sa and sb.

    Noncentral t with Welch's df at equal n: df = (n - 1)(sa^2 + sb^2)^2 / (sa^4 + sb^4), shifted by
    |difference| / sqrt((sa^2 + sb^2) / n) (Cohen 1988, section 2.2; Lehr's rule n = 16 (s / difference)^2 is close).
    """
    from scipy import special

    df = (n - 1) * (sa**2 + sb**2) ** 2 / (sa**4 + sb**4)
    shift = abs(difference) / math.sqrt((sa**2 + sb**2) / n)
    critical = float(special.stdtrit(df, 1 - level / 2))
    return 1 - _below(critical, df, shift) + _below(-critical, df, shift)


def _below(t: float, df: float, shift: float) -> float:
    """The noncentral t distribution. SciPy gives NaN far out in the lower tail, where it is under 1e-50."""
    from scipy import special

    below = float(special.nctdtr(df, shift, t))
    return 0.0 if math.isnan(below) else below


def seeds_needed(difference: float, sa: float, sb: float, level: float = LEVEL) -> int | None:
    """The fewest seeds a group that would show such a difference 4 times in 5; None above 10,000, and for none."""
    if difference == 0 or sa == sb == 0 or power_of(difference, sa, sb, MAX_SEEDS, level) < POWER:
        return None
    low, high = 1, MAX_SEEDS  # power rises with n
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(difference, sa, sb, middle, level) >= POWER:
            high = middle
        else:
            low = middle
    return high


def detectable(sa: float, sb: float, n: int, level: float = LEVEL) -> float | None:
    """The smallest difference that n seeds a group show 4 times in 5, to a thousandth; None without any spread."""
    if sa == sb == 0:
        return None
    error = math.sqrt((sa**2 + sb**2) / n)
    low, high = 0.0, error
    while power_of(high, sa, sb, n, level) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if power_of(middle, sa, sb, n, level) >= POWER:
            high = middle
        else:
            low = middle
    return high
