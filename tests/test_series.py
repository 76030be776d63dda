"""The metric store: what is written comes back, and what is reduced keeps every extreme."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import runs, series
from app.axes import Axis, x_values
from app.chunks import ChunkRow, chunk_row, unpack
from app.columns import json_floats
from app.db import Database
from app.models import MetricSummary, Run
from app.reduce import reduce_to
from app.runs import NewRun
from app.series import Block, make_block

numbers = st.floats(width=64)  # NaN and infinities among them
finite = st.floats(-1e6, 1e6)
on_db = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
quick = settings(deadline=None)


def same(a: Block, b: Block) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


# -- reducing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 1e-18, 1e-17, 1e-9])
def test_points_at_one_time_are_reduced_like_others(spread: float) -> None:
    """A script sends a batch without times: it has one x on the axes of time."""
    x = 0.09 + np.cumsum(np.random.default_rng(0).random(5_000) * spread)
    values = np.random.default_rng(1).normal(size=5_000)
    kept = reduce_to(x, values, 200)
    assert 8 <= len(kept) <= 200
    assert {int(values.argmin()), int(values.argmax())} <= {*kept.tolist()}


@pytest.mark.parametrize("x", ["step", "clock"])
def test_a_spike_of_one_step_in_10000_is_seen_at_500_points_wherever_it_is(x: str) -> None:
    steps = np.arange(1.0, 10_001.0)
    xs = steps if x == "step" else np.cumsum(np.random.default_rng(0).exponential(0.1, 10_000))
    smooth = 1 / steps
    for at in range(0, 10_000, 7):
        for spike in (9.0, -9.0):
            values = smooth.copy()
            values[at] = spike
            kept = reduce_to(xs, values, 500)
            assert at in kept
            assert len(kept) <= 500


@quick
@given(
    st.lists(st.one_of(finite, numbers), min_size=1, max_size=300),
    st.integers(8, 64),
    st.randoms(use_true_random=False),
)
@example([math.nan] * 40, 8, None)
@example([1.0] * 39 + [math.nan], 8, None)
def test_reduced_points_are_real_few_and_hold_the_extremes(
    values: list[float], points: int, rng: object
) -> None:
    array = np.asarray(values)
    gaps = np.ones(len(values)) if rng is None else [rng.choice((0.0, 0.1, 1.0, 50.0)) for _ in values]  # type: ignore[attr-defined]
    x = np.cumsum(gaps)
    kept = reduce_to(x, array, points)

    assert len(kept) <= points
    assert (np.diff(kept) > 0).all()
    assert kept.size == 0 or (kept[0] >= 0 and kept[-1] < len(values))
    ordinary = np.flatnonzero(np.isfinite(array))
    if ordinary.size:
        drawn = array[kept][np.isfinite(array[kept])]
        assert drawn.min() == array[ordinary].min()
        assert drawn.max() == array[ordinary].max()
        assert ordinary[0] in kept
        assert ordinary[-1] in kept
    assert np.isfinite(array).all() == np.isfinite(array[kept]).all()


@quick
@given(st.lists(finite, min_size=200, max_size=400), st.integers(8, 120))
def test_every_bucket_keeps_its_extremes(values: list[float], points: int) -> None:
    """Between the first and the last x there are points // 4 buckets; borders may fall on either side."""
    array = np.asarray(values)
    x = np.arange(len(values), dtype=np.float64)
    kept = reduce_to(x, array, points)
    width = (len(values) - 1) / (points // 4)
    for bucket in range(points // 4):
        inside = (x > bucket * width + 1e-6) & (x < (bucket + 1) * width - 1e-6)
        around = (x[kept] > bucket * width - 1e-6) & (x[kept] < (bucket + 1) * width + 1e-6)
        if inside.any():
            assert array[inside].min() >= array[kept][around].min()
            assert array[inside].max() <= array[kept][around].max()


def test_few_points_come_back_whole() -> None:
    values = np.asarray([1.0, math.nan, math.inf, -math.inf, -0.0])
    assert reduce_to(np.arange(5.0), values, 8).tolist() == [0, 1, 2, 3, 4]


def test_a_lone_nan_far_from_thousands_of_others_is_kept() -> None:
    values = np.ones(10_000)
    values[1_000:4_000] = math.nan
    values[9_000] = math.nan
    kept = reduce_to(np.arange(10_000.0), values, 500)

    assert 9_000 in kept
    assert np.isnan(values[kept]).sum() > 20
    assert len(kept) <= 500


def test_infinities_and_nan_travel_as_strings() -> None:
    values = np.asarray([1.5, math.nan, math.inf, -math.inf, -0.0, 5e-324])
    plain = json_floats(values)
    assert plain == [1.5, "NaN", "Infinity", "-Infinity", -0.0, 5e-324]
    back = [float(number) for number in json.loads(json.dumps(plain, allow_nan=False))]
    assert np.array_equal(values, back, equal_nan=True)


# -- packing -------------------------------------------------------------------------------------------------

steps_and_values = st.dictionaries(st.integers(0, 2**53), numbers, min_size=1, max_size=20)


@quick
@given(steps_and_values, st.booleans())
def test_a_packed_chunk_is_the_same_block(points: dict[int, float], consecutive: bool) -> None:
    steps = sorted(points)
    if consecutive:
        steps = [steps[0] + i for i in range(len(steps))]
    block = make_block(steps, [step / 2 for step in steps], list(points.values()))
    row = chunk_row("r", "m", 1, block)
    names = {name: row["count" if name == "length" else name] for name in ChunkRow._fields}

    assert (row["steps"] == b"") == (len(steps) == steps[-1] - steps[0] + 1)
    assert same(unpack(ChunkRow(**names)), block)
    finite_values = [value for value in points.values() if math.isfinite(value)]
    assert (row["min"], row["max"]) == (min(finite_values, default=None), max(finite_values, default=None))


@quick
@given(st.lists(st.tuples(st.integers(0, 20), finite)))
def test_of_points_at_one_step_in_one_block_the_last_stays(pairs: list[tuple[int, float]]) -> None:
    steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    block = make_block(steps, values, values)
    assert dict(zip(block.steps.tolist(), block.values.tolist(), strict=True)) == dict(pairs)
    assert block.steps.tolist() == sorted(dict(pairs))


# -- the store, on both databases ----------------------------------------------------------------------------


def make_run(db: Database) -> str:
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(None), max_queued=10)
        return run.id


def stored(db: Database, run_id: str, low: int | None = None, high: int | None = None) -> dict[int, float]:
    with db.read() as s:
        blocks = series.read_blocks(s, [run_id], ["m", "other"], low, high)
    block = blocks.get((run_id, "m"), series.EMPTY)
    assert (np.diff(block.steps) > 0).all()
    assert np.array_equal(block.times, block.steps * 2.0)
    return dict(zip(block.steps.tolist(), block.values.tolist(), strict=True))


def block_of(points: dict[int, float]) -> Block:
    steps = sorted(points)
    return make_block(steps, [step * 2.0 for step in steps], [points[step] for step in steps])


def summary_of(db: Database, run_id: str) -> MetricSummary | None:
    with db.read() as s:
        return next((row for row in series.list_summaries(s, [run_id])[run_id] if row.metric == "m"), None)


def check_summary(row: MetricSummary | None, points: dict[int, float]) -> None:
    """What one pass over the points says; of equal extremes any step will do."""
    if not points:
        assert row is None
        return
    assert row is not None
    proper = [value for value in points.values() if math.isfinite(value)]
    last = points[max(points)]
    assert (row.count, row.nonfinite) == (len(points), len(points) - len(proper))
    assert (row.last_step, row.last) == (max(points), last if math.isfinite(last) else None)
    assert (row.min, row.max) == (min(proper, default=None), max(proper, default=None))
    for step, extreme in ((row.min_step, row.min), (row.max_step, row.max)):
        assert (step is None) == (extreme is None)
        assert step is None or points[step] == extreme


flushes = st.lists(
    st.dictionaries(st.integers(0, 30), numbers, min_size=1, max_size=8), min_size=1, max_size=6
)


def equal(a: dict[int, float], b: dict[int, float]) -> bool:
    return a.keys() == b.keys() and all(a[k] == b[k] or (a[k] != a[k] and b[k] != b[k]) for k in a)


@on_db
@given(flushes, st.integers(0, 30), st.integers(0, 30))
def test_blocks_in_any_order_read_as_a_dictionary(
    db: Database, written: list[dict[int, float]], low: int, high: int
) -> None:
    run_id, model = make_run(db), dict[int, float]()
    for seq, points in enumerate(written, 1):
        with db.begin() as s:
            series.append_chunks(s, run_id, seq, {"m": block_of(points), "other": block_of({1: 1.0})})
        model |= points

    assert equal(stored(db, run_id), model)
    assert equal(stored(db, run_id, low, high), {k: v for k, v in model.items() if low <= k <= high})
    check_summary(summary_of(db, run_id), model)


@on_db
@given(flushes, st.integers(0, 31))
def test_truncation_forgets_what_lies_behind_and_nothing_else(
    db: Database, written: list[dict[int, float]], step: int
) -> None:
    run_id, model = make_run(db), dict[int, float]()
    for seq, points in enumerate(written, 1):
        with db.begin() as s:
            series.append_chunks(s, run_id, seq, {"m": block_of(points)})
        model |= points
    with db.begin() as s:
        series.truncate_after(s, run_id, step)
    model = {k: v for k, v in model.items() if k <= step}

    assert equal(stored(db, run_id), model)
    check_summary(summary_of(db, run_id), model)
    with db.begin() as s:  # and the next attempt goes on from there
        series.append_chunks(s, run_id, len(written) + 1, {"m": block_of({step + 1: 0.5})})
    model[step + 1] = 0.5
    assert equal(stored(db, run_id), model)
    check_summary(summary_of(db, run_id), model)


def test_values_come_back_bit_by_bit(db: Database) -> None:
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1.7e308, math.nan, math.inf, -math.inf]
    run_id = make_run(db)
    with db.begin() as s:
        series.append_chunks(s, run_id, 1, {"m": make_block(range(1, 9), [0.0] * 8, values)})
    with db.read() as s:
        block = series.read_blocks(s, [run_id], ["m"])[run_id, "m"]
    assert block.values.tobytes() == np.asarray(values).tobytes()
    check_summary(summary_of(db, run_id), dict(enumerate(values, 1)))


def test_flushes_since_a_cursor_come_in_order_and_are_never_torn(db: Database) -> None:
    run_id = make_run(db)
    for seq in range(1, 8):
        with db.begin() as s:
            series.append_chunks(s, run_id, seq, {m: block_of({seq: 1.0}) for m in "abc"})
    seen: list[tuple[int, str]] = []
    cursor = 0
    while True:
        with db.read() as s:
            chunks = series.read_since(s, run_id, cursor, 7)
        if not chunks:
            break
        assert len(chunks) % 3 == 0
        seen += [(chunk.seq, chunk.metric) for chunk in chunks]
        cursor = chunks[-1].seq
    assert seen == [(seq, m) for seq in range(1, 8) for m in "abc"]


def test_series_of_several_runs_stay_apart(db: Database) -> None:
    first, second = make_run(db), make_run(db)
    with db.begin() as s:
        series.append_chunks(s, first, 1, {"a": block_of({1: 1.0}), "b": block_of({1: 2.0})})
        series.append_chunks(s, second, 1, {"a": block_of({1: 3.0})})
        series.truncate_after(s, second, 0)
    with db.read() as s:
        assert set(series.read_blocks(s, [first, second], ["a", "b"])) == {(first, "a"), (first, "b")}
        found = series.list_summaries(s, [first, second, "nobody"])
    assert [[row.metric for row in found[run_id]] for run_id in (first, second, "nobody")] == [
        ["a", "b"],
        [],
        [],
    ]


# -- axes ----------------------------------------------------------------------------------------------------


def run_with(**fields: object) -> Run:
    row: dict[str, Any] = {
        "id": "r",
        "name": "r",
        "created_at": 90.0,
        "queued_at": 90.0,
        "updated_at": 90.0,
        "started_at": 100.0,
    }
    return Run(**row | fields)


def xs(axis: Axis, run: Run, steps: list[int], times: list[float] | None = None) -> list[float] | None:
    found = x_values(axis, run, make_block(steps, times or [100.0 + n for n in steps], [0.0] * len(steps)))
    return None if found is None else found.tolist()


def test_epochs_and_samples_count_a_last_batch_that_is_smaller() -> None:
    """100 images in batches of 32: steps of 32, 32, 32 and 4."""
    run = run_with(steps_per_epoch=4, spec={"batch_size": 32}, resolved={"train_images": 100})
    assert xs("epoch", run, [1, 4, 6, 8]) == [0.25, 1, 1.5, 2]
    assert xs("samples", run, [1, 3, 4, 5, 8]) == [32, 96, 100, 132, 200]


def test_an_external_run_may_say_how_many_steps_make_an_epoch() -> None:
    told = run_with(kind="external", spec={"steps_per_epoch": 10, "batch_size": 8})
    silent = run_with(kind="external", spec={"steps_per_epoch": "many", "batch_size": True})
    assert xs("epoch", told, [5, 10]) == [0.5, 1]
    assert xs("samples", told, [5]) == [40]
    assert xs("epoch", silent, [5]) is None
    assert xs("samples", silent, [5]) is None


def test_clock_axes_never_turn_back() -> None:
    run = run_with()
    assert xs("time", run, [1, 2, 3], [101.0, 99.0, 102.0]) == [101, 101, 102]
    assert xs("elapsed", run, [1, 2, 3], [101.0, 99.0, 102.0]) == [1, 1, 2]
    assert xs("elapsed", run_with(started_at=None), [1], [101.0]) == [11]
    assert xs("step", run, [1, 7]) == [1, 7]
