"""What the seeds show: mean and spread of each group, and whether the difference of two is more than chance.

A group's values are one a seed: runs with the same settings and seed are no new evidence, and count as their mean.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from app.compare.facts import UNKNOWN, RunFacts, identity
from app.compare.keys import read_table
from app.compare.notes import find_repeats
from app.compare.resampling import (
    Permuted,
    Resamples,
    bootstrap_t,
    flip_signs,
    permute,
    resample,
    smallest_p,
)
from app.compare.verdict import Group, Verdict
from app.compare.welch import LEVEL, compare_means, detectable, effect_size, seeds_needed

Direction = Literal["higher", "lower"]
At = Literal["best", "last"]
MAX_PAIRS = 190  # every pair of twenty groups
LARGEST = 1e100  # beyond it a square is infinite, as good as the value itself


@dataclass(frozen=True)
class LeftOut:
    """A run whose value does not count: its state, "no_value" (the metric was not measured), or "not_finite"."""

    run: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """One group in numbers. `values[i]` was measured by `runs[i]`: one run, or the repeats whose mean it is.

    `seeds[i]` is its seed; None in all where seeds are not known or not different (a crossed setting varies as well).
    `mean` is None for n = 0, `std` (with n - 1) for n < 2.
    """

    group: Group
    values: tuple[float, ...]
    runs: tuple[tuple[str, ...], ...]
    seeds: tuple[Any, ...] | None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.values)) if self.values else None

    @property
    def std(self) -> float | None:
        return float(np.std(self.values, ddof=1)) if self.n > 1 else None


@dataclass(frozen=True)
class Pair:
    """Two groups compared: `first` and `second` are indices into the samples; all differences are first - second.

    `difference`: of the means. `low`, `high`: its 95 % interval, by `interval`: "bootstrap-t" (n of 3 and more) or
        "welch"; None with n = 1, or without any spread.
    `p`: two-sided, by `test`; `p_adjusted`: after Holm's correction for all tested pairs; `shown`: whether that is at
        most 0.05. None, like `test`, where a group has n = 1: chance cannot be told from a difference.
    `test`: "permutation" where all tested groups have as many seeds, and enough that it can reach 0.05 in every pair
        after the correction; otherwise "welch" for all of them, which bears unequal numbers with unequal spreads.
        Groups without any spread have only the permutation test.
    `p_welch`, `permutation`: both, whichever of them is `p`.
    `paired`: the sign-flip test of the seeds that both groups have, when those are the same seeds.
    `effect`: Hedges' g. `better`: the index of the better group; None where the means are equal, or where the metric
        does not tell what better is.
    `seeds_needed`: how many seeds a group would show a difference of this size 4 times in 5; None: over 10,000.
    `detectable`: the difference that as many seeds as now (the fewer of the two groups) would show 4 times in 5.
    """

    first: int
    second: int
    difference: float
    better: int | None
    low: float | None = None
    high: float | None = None
    interval: Literal["bootstrap-t", "welch"] | None = None
    test: Literal["permutation", "welch"] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    shown: bool | None = None
    p_welch: float | None = None
    permutation: Permuted | None = None
    paired: Permuted | None = None
    effect: float | None = None
    seeds_needed: int | None = None
    detectable: float | None = None


@dataclass(frozen=True)
class Statistics:
    """`samples` are the verdict's groups in their order; `pairs` all of them, or each against the baseline's group.

    `share`: the values are shares in 0..1, to be shown in percent, and their differences in points. `crowded`: there
    are more pairs than are tested; name a baseline run.
    """

    metric: str
    at: At
    direction: Direction | None
    share: bool
    samples: tuple[Sample, ...]
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    crowded: bool


def measure(
    runs: Sequence[RunFacts],
    verdict: Verdict,
    values: Mapping[str, float | None],
    metric: str,
    *,
    at: At = "last",
    direction: Direction | None = None,
    share: bool = False,
    baseline: str | None = None,
) -> Statistics:
    """What the seeds show of the verdict's groups.

    `values`: the metric of each run by id, None (or no entry) where it was not measured. `baseline`: a run whose group
    all others are compared with, instead of every pair. Only finished runs count.
    """
    left_out = tuple(left for run in runs if (left := _leave_out(run, values)) is not None)
    out = {left.run for left in left_out}
    kept = [run for run in runs if run.id not in out]
    samples = make_samples(kept, verdict.groups, {run.id: float(values[run.id] or 0.0) for run in kept})
    base = next((i for i, sample in enumerate(samples) if baseline in sample.group.runs), None)
    crowded = count_pairs(samples, base) > MAX_PAIRS
    pairs = () if crowded else compare_groups(samples, direction, base)
    return Statistics(metric, at, direction, share, samples, pairs, left_out, crowded)


def _leave_out(run: RunFacts, values: Mapping[str, float | None]) -> LeftOut | None:
    value = values.get(run.id)
    if run.state != "finished":
        return LeftOut(run.id, run.state)
    if value is None:
        return LeftOut(run.id, "no_value")
    return None if abs(value) < LARGEST else LeftOut(run.id, "not_finite")


def make_samples(
    runs: Sequence[RunFacts], groups: Sequence[Group], values: Mapping[str, float]
) -> tuple[Sample, ...]:
    """One sample a group, over those of its runs that are in `runs`; repeats of one seed count as their mean."""
    table = read_table(runs)
    seeds = next(column for key, column in table.items() if key.name == "seed")
    cells = find_repeats(runs, table)
    return tuple(_sample(group, values, cells, seeds) for group in groups)


def _sample(
    group: Group,
    values: Mapping[str, float],
    cells: Mapping[str, Hashable],
    seeds: Mapping[str, Any],
) -> Sample:
    members: dict[Hashable, list[str]] = {}
    for run in group.runs:
        if run in values:
            members.setdefault(cells[run], []).append(run)
    runs = tuple(tuple(ids) for ids in members.values())
    of_each = tuple(seeds[ids[0]] for ids in runs)
    distinct = UNKNOWN not in of_each and len({identity(seed) for seed in of_each}) == len(of_each)
    means = tuple(math.fsum(values[run] for run in ids) / len(ids) for ids in runs)
    return Sample(group, means, runs, tuple(map(identity, of_each)) if distinct else None)


def compare_groups(
    samples: Sequence[Sample], direction: Direction | None, baseline: int | None = None
) -> tuple[Pair, ...]:
    """Every pair of groups that have values, or each with the baseline's (by index), with Holm over all tests."""
    filled = [index for index, sample in enumerate(samples) if sample.n]
    pairs = [
        (a, b) if baseline != a else (b, a)
        for a, b in combinations(filled, 2)
        if baseline is None or baseline in (a, b)
    ]
    tested = [pair for pair in pairs if min(samples[i].n for i in pair) > 1]
    by_permutation = all(
        samples[a].n == samples[b].n and smallest_p(samples[a].n, samples[b].n) * len(tested) <= LEVEL
        for a, b in tested
    )
    resamples = {i: resample(np.array(samples[i].values), i) for pair in tested for i in pair}
    return _correct(
        [_compare(samples, a, b, direction, by_permutation, len(tested), resamples) for a, b in pairs]
    )


def count_pairs(samples: Sequence[Sample], baseline: int | None) -> int:
    filled = sum(sample.n > 0 for sample in samples)
    return math.comb(filled, 2) if baseline is None else max(filled - 1, 0)


def _compare(
    samples: Sequence[Sample],
    a: int,
    b: int,
    direction: Direction | None,
    by_permutation: bool,
    tests: int,
    resamples: Mapping[int, Resamples | None],
) -> Pair:
    x, y = np.array(samples[a].values), np.array(samples[b].values)
    difference = float(x.mean() - y.mean())
    better = None
    if direction is not None and difference != 0:
        better = a if (difference > 0) == (direction == "higher") else b
    pair = Pair(a, b, difference, better)
    if min(len(x), len(y)) < 2:
        return pair
    permutation, welch = permute(x, y), compare_means(x, y)
    pair = replace(pair, permutation=permutation, paired=_pair_seeds(samples[a], samples[b]))
    if welch.error == 0:
        return replace(pair, test="permutation", p=permutation.p)
    boot = bootstrap_t(x, y, resamples[a], resamples[b])
    low, high = boot or welch.interval()
    spread = float(x.std(ddof=1)), float(y.std(ddof=1))
    return replace(
        pair,
        low=low,
        high=high,
        interval="bootstrap-t" if boot else "welch",
        test="permutation" if by_permutation else "welch",
        p=permutation.p if by_permutation else welch.p,
        p_welch=welch.p,
        effect=effect_size(x, y),
        seeds_needed=seeds_needed(difference, *spread, LEVEL / tests),
        detectable=detectable(*spread, min(len(x), len(y)), LEVEL / tests),
    )


def _pair_seeds(a: Sample, b: Sample) -> Permuted | None:
    """The sign-flip test over seeds; None unless each value has a seed of its own, and both groups have the same."""
    if a.seeds is None or b.seeds is None or set(a.seeds) != set(b.seeds):
        return None
    partner = dict(zip(b.seeds, b.values, strict=True))
    return flip_signs(np.array([x - partner[seed] for seed, x in zip(a.seeds, a.values, strict=True)]))


def _correct(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """With p adjusted after Holm (1979), step down: the chance of any false alarm among all pairs stays 5 %."""
    tested = sorted((pair.p, index) for index, pair in enumerate(pairs) if pair.p is not None)
    adjusted: dict[int, float] = {}
    floor = 0.0
    for rank, (p, index) in enumerate(tested):
        floor = max(floor, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = floor
    return tuple(
        replace(pair, p_adjusted=adjusted[i], shown=adjusted[i] <= LEVEL) if i in adjusted else pair
        for i, pair in enumerate(pairs)
    )
