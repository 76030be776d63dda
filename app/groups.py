"""Curves averaged over the runs of a group, step by step, with a band. Pure: numpy and a quantile of Student's t."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from app.chunks import EMPTY, Floats, Ints
from app.reduce import reduce_to

Band: TypeAlias = Literal["std", "se", "ci95", "minmax"]


class Line(NamedTuple):
    """One member of a group, by rising step: steps [N] int64, x [N], values [N] float64."""

    steps: Ints
    x: Floats
    values: Floats


class Mean(NamedTuple):
    """The mean over a group's members at every step that any of them has, by rising step and x; all [N].

    `n` members have a finite value there; where none has, mean, low and high are NaN.
    """

    steps: Ints
    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    n: Ints

    def part(self, index: slice | Ints) -> Mean:
        steps, x, mean, low, high, n = self
        return Mean(steps[index], x[index], mean[index], low[index], high[index], n[index])


def mean_line(members: Sequence[Line], band: Band) -> Mean:
    """Mean and band of these members; no member interpolates: it counts at the steps that it has.

    `std` is the sample's (n - 1), `se` is std / sqrt(n), `ci95` the interval of Student's t, `minmax` what the members
    span. One member alone has no spread: its low and high are NaN, except for `minmax`. x is the mean of the members'
    x at that step; where a slow member ends and it would turn back it stands still.
    """
    steps = _union([member.steps for member in members])
    x, seen = np.zeros(len(steps)), np.zeros(len(steps), np.int64)
    mean, square, n = np.zeros(len(steps)), np.zeros(len(steps)), np.zeros(len(steps), np.int64)
    low, high = np.full(len(steps), np.inf), np.full(len(steps), -np.inf)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for member in members:
            at = np.searchsorted(steps, member.steps)
            seen[at] += 1
            x[at] += (member.x - x[at]) / seen[at]
            finite = np.isfinite(member.values)
            at, values = at[finite], member.values[finite]
            n[at] += 1
            off = values - mean[at]  # Welford's update: one pass, and no difference of large squares
            mean[at] += off / n[at]
            square[at] += off * (values - mean[at])
            low[at], high[at] = np.minimum(low[at], values), np.maximum(high[at], values)
        if band != "minmax":
            half = _half_width(np.sqrt(square / (n - 1)), n, band)
            low, high = mean - half, mean + half
    for column in (mean, low, high):
        column[n == 0] = np.nan
    return Mean(steps, np.maximum.accumulate(x), mean, low, high, n)


def _union(columns: Sequence[Ints]) -> Ints:
    """Every step of any column, rising. Members mostly have the same steps, of which the longest has all."""
    longest = max(columns, key=len, default=EMPTY.steps)
    if all(np.array_equal(column, longest[: len(column)]) for column in columns):
        return longest
    return np.unique(np.concatenate(columns))


def _half_width(std: Floats, n: Ints, band: Band) -> Floats:
    """From the mean to the band's edge; NaN below two members."""
    if band == "std":
        half = std
    else:
        half = std / np.sqrt(n)
        if band == "ci95":
            from scipy.special import stdtrit  # 0.1 s to import, and few charts ask for it

            counts, where = np.unique(n, return_inverse=True)
            half = half * np.asarray(stdtrit(np.maximum(counts - 1, 1), 0.975))[where]
    return np.where(n > 1, half, np.nan)


def reduce_mean(line: Mean, points: int) -> Mean:
    """At most `points` of its points: the extremes of the mean on half of them, those of each edge on a quarter."""
    if len(line.steps) <= points:
        return line
    if points < 32:  # too few to share out
        return line.part(reduce_to(line.x, line.mean, points))
    kept = [reduce_to(line.x, line.mean, points // 2)]
    for edge in (line.low, line.high):
        inside = np.flatnonzero(np.isfinite(edge))
        if inside.size:
            kept.append(inside[reduce_to(line.x[inside], edge[inside], points // 4)])
    return line.part(np.unique(np.concatenate(kept)))


def field_of(spec: Mapping[str, Any], path: str) -> Any:
    """The value at `model_options.activation` in a spec; None where there is none."""
    value: Any = spec
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def field_paths(spec: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every path that `field_of` finds something at."""
    paths = []
    for name, value in spec.items():
        paths.append(prefix + name)
        if isinstance(value, Mapping):
            paths += field_paths(value, f"{prefix}{name}.")
    return paths


def group_by(
    specs: Mapping[str, Mapping[str, Any]], by: Sequence[str]
) -> list[tuple[dict[str, Any], list[str]]]:
    """(key, ids) of each group of specs that are alike in the fields `by`, in the order given."""
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run_id, spec in specs.items():
        key = {path: field_of(spec, path) for path in by}
        groups.setdefault(json.dumps(key, sort_keys=True), (key, []))[1].append(run_id)
    return list(groups.values())
