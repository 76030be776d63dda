"""What every benchmark prints: a row a figure, with its number of samples and its spread."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence


def heading(title: str) -> None:
    print(f"\n## {title}\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print(f"| {'figure':44} | {'median':>10} | {'min':>10} | {'max':>10} | {'n':>5} | goal")
    print(f"|{'-' * 46}|{'-' * 12}|{'-' * 12}|{'-' * 12}|{'-' * 7}|------")


def row(figure: str, samples: Sequence[float], unit: str, goal: str = "") -> None:
    middle, low, high = statistics.median(samples), min(samples), max(samples)
    cells = " | ".join(f"{value:>7.3g} {unit:<2}" for value in (middle, low, high))
    print(f"| {figure:44} | {cells} | {len(samples):>5} | {goal}", flush=True)


def percentile(samples: Sequence[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
