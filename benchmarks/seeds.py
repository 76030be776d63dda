"""How often the statistics over seeds are wrong: false alarms of the tests, coverage of the intervals.

    python -m benchmarks.seeds [--simulations 2000]

Two groups whose means do not differ, of normal values and of gamma-skewed ones (as accuracies near 1 are), with equal
spreads and with the first group three times as wide. "shown" is what the product would say (app.compare.statistics).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from app.chunks import Floats
from app.compare import Group, Sample
from app.compare.resampling import bootstrap_t, permute, resample
from app.compare.statistics import compare_groups
from app.compare.welch import LEVEL, compare_means

Draw: TypeAlias = Callable[[int], Floats]
SIZES = ((3, 3), (5, 5), (10, 10), (3, 5), (4, 10), (5, 10))
DRAWS = 1_999
NOBODY = Group({}, (), ())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=2_000)
    count: int = parser.parse_args().simulations
    draw = np.random.default_rng(2026)
    spreads: dict[str, Draw] = {
        "normal": lambda n: draw.normal(size=n),
        "skewed": lambda n: 2 - draw.gamma(2.0, 1.0, n),
    }
    print(f"{count:,} simulations a row; false alarms at 5 %, coverage at 95 %\n")
    print("values   sizes    spreads  shown  permutation  Welch  |  studentized  percentile  agree")
    for name, values in spreads.items():
        for sizes in SIZES:
            for ratio in (1, 3):
                rates = np.mean([_simulate(values, *sizes, ratio, draw) for _ in range(count)], axis=0) * 100
                row = "  ".join(
                    f"{rate:{width}.1f}" for rate, width in zip(rates, (5, 11, 5, 14, 10, 5), strict=True)
                )
                print(f"{name}  {sizes[0]:2} + {sizes[1]:2}  {ratio} : 1    {row}", flush=True)


def _simulate(values: Draw, n: int, m: int, ratio: int, draw: np.random.Generator) -> list[bool]:
    a, b = values(n) * ratio, values(m)
    samples = [Sample(NOBODY, tuple(x.tolist()), tuple(("",) for _ in x), None) for x in (a, b)]
    (pair,) = compare_groups(samples, "higher")
    studentized = bootstrap_t(a, b, resample(a, 0), resample(b, 1))
    assert studentized is not None
    low, high = studentized
    means = a[draw.integers(0, n, (DRAWS, n))].mean(axis=1) - b[draw.integers(0, m, (DRAWS, m))].mean(axis=1)
    percentile = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return [
        bool(pair.shown),
        permute(a, b).p <= LEVEL,
        compare_means(a, b).p <= LEVEL,
        low <= 0 <= high,
        bool(percentile[0] <= 0 <= percentile[1]),
        pair.shown == (not low <= 0 <= high),
    ]


if __name__ == "__main__":
    main()
