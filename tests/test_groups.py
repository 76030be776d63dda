"""Averages over a group against a plain reference, and reduced ones that keep what matters."""

from __future__ import annotations

import math
import time
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from app.groups import Band, Line, Mean, field_of, field_paths, group_by, mean_line, reduce_mean

quick = settings(deadline=None)
BANDS: tuple[Band, ...] = get_args(Band)

values = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf]))
members = st.lists(st.dictionaries(st.integers(0, 12), values, max_size=10), max_size=5)


def line(points: dict[int, float], pace: float = 1.0) -> Line:
    steps = sorted(points)
    x = np.asarray([step * pace for step in steps], np.float64)
    return Line(np.asarray(steps, np.int64), x, np.asarray([points[step] for step in steps], np.float64))


def expected(there: list[float], band: Band) -> tuple[float, float, float]:
    """Mean, low and high of the finite values at one step, as the textbook has them."""
    if not there:
        return math.nan, math.nan, math.nan
    mean, n = float(np.mean(there)), len(there)
    if band == "minmax":
        return mean, min(there), max(there)
    if n == 1:
        return mean, math.nan, math.nan
    half = float(np.std(there, ddof=1)) / (1 if band == "std" else math.sqrt(n))
    half *= float(stats.t.ppf(0.975, n - 1)) if band == "ci95" else 1
    return mean, mean - half, mean + half


@quick
@given(members, st.sampled_from(BANDS))
def test_the_mean_of_every_step_that_any_member_has(runs: list[dict[int, float]], band: Band) -> None:
    found = mean_line([line(points) for points in runs], band)
    steps = sorted({step for points in runs for step in points})
    assert found.steps.tolist() == steps
    assert np.array_equal(found.x, steps)
    for at, step in enumerate(steps):
        there = [points[step] for points in runs if step in points and math.isfinite(points[step])]
        assert found.n[at] == len(there)
        for column, number in zip((found.mean, found.low, found.high), expected(there, band), strict=True):
            assert column[at] == pytest.approx(number, rel=1e-9, abs=1e-6, nan_ok=True)


@quick
@given(members, st.lists(st.floats(0.1, 10), min_size=5, max_size=5))
def test_x_never_turns_back_whoever_ends_early(runs: list[dict[int, float]], paces: list[float]) -> None:
    found = mean_line([line(points, pace) for points, pace in zip(runs, paces, strict=False)], "std")
    assert (np.diff(found.x) >= 0).all()


def test_values_far_from_zero_keep_their_spread() -> None:
    found = mean_line([line({1: 1e9 + value}) for value in (0.0, 1.0, 2.0)], "std")
    assert (found.mean[0], found.high[0] - found.mean[0]) == (1e9 + 1, 1.0)


def test_members_of_one_value_each_have_no_spread_but_a_range() -> None:
    lone = [line({1: 0.5, 2: 0.25})]
    for band in BANDS:
        found = mean_line(lone, band)
        assert np.isnan(found.low).all() == (band != "minmax")
        assert found.mean.tolist() == [0.5, 0.25]


@quick
@given(st.integers(0, 9_999), st.sampled_from([50.0, -50.0]), st.sampled_from([8, 31, 32, 500, 1_000]))
def test_a_spike_of_the_mean_is_seen_at_any_number_of_points(at: int, spike: float, points: int) -> None:
    steps = np.arange(10_000)
    curve = 1 / (1 + steps)
    curve[at] = spike
    whole = mean_line(
        [Line(steps, steps.astype(float), curve), Line(steps, steps.astype(float), curve)], "std"
    )
    shown = reduce_mean(whole, points)
    assert at in shown.steps
    assert len(shown.steps) <= points
    assert (np.diff(shown.steps) > 0).all()


def test_the_edges_of_the_band_keep_their_extremes() -> None:
    steps, rng = np.arange(10_000), np.random.default_rng(0)
    runs = [Line(steps, steps.astype(float), rng.normal(size=10_000)) for _ in range(5)]
    for band in BANDS:
        whole = mean_line(runs, band)
        shown = reduce_mean(whole, 400)
        assert len(shown.steps) <= 400
        assert (shown.low.min(), shown.high.max()) == (whole.low.min(), whole.high.max())
        assert (shown.mean.min(), shown.mean.max()) == (whole.mean.min(), whole.mean.max())


def test_few_points_stay_as_they_are() -> None:
    whole = mean_line([line({1: 1.0, 5: 2.0})], "se")
    assert reduce_mean(whole, 8) is whole
    assert len(mean_line([], "se").steps) == 0


def test_ten_runs_of_10000_steps_cost_little() -> None:
    """Of the process's own time, which a busy machine does not lengthen much; the goal is under 100 ms."""
    steps, rng = np.arange(10_000), np.random.default_rng(0)
    runs = []
    for ends in range(9_100, 10_001, 100):
        runs.append(Line(steps[:ends], steps[:ends].astype(np.float64), rng.normal(size=ends)))
    mean_line(runs, "ci95")  # imports
    began = time.thread_time()
    reduce_mean(mean_line(runs, "ci95"), 1_000)
    assert time.thread_time() - began < 0.1


# -- keys ----------------------------------------------------------------------------------------------------


def test_fields_are_found_by_path() -> None:
    spec: dict[str, Any] = {"lr": 0.1, "model_options": {"activation": "relu"}, "tags": ["a"]}
    assert field_paths(spec) == ["lr", "model_options", "model_options.activation", "tags"]
    assert [field_of(spec, path) for path in field_paths(spec)] == [
        0.1,
        {"activation": "relu"},
        "relu",
        ["a"],
    ]
    assert field_of(spec, "lr.x") is None
    assert field_of(spec, "nothing") is None


def test_runs_alike_in_every_field_are_one_group_in_the_order_given() -> None:
    specs: dict[str, dict[str, Any]] = {
        "a": {"lr": 0.1, "seed": 0}, "b": {"lr": 0.2, "seed": 0}, "c": {"lr": 0.1, "seed": 1}, "d": {},
    }  # fmt: skip
    assert group_by(specs, ["lr"]) == [({"lr": 0.1}, ["a", "c"]), ({"lr": 0.2}, ["b"]), ({"lr": None}, ["d"])]
    assert group_by(specs, []) == [({}, ["a", "b", "c", "d"])]
    assert len(group_by(specs, ["lr", "seed"])) == 4


def test_a_part_keeps_every_column() -> None:
    whole = mean_line([line({1: 1.0, 5: 2.0})], "minmax")
    assert [column.tolist() for column in whole.part(slice(1, 2))] == [[5], [5.0], [2.0], [2.0], [2.0], [1]]
    assert isinstance(whole.part(slice(0, 1)), Mean)
