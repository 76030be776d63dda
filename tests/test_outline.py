"""A long series read without most of its points reduces to what all of its points reduce to."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from app import runs, series
from app.api import series as api
from app.api.windows import Revision, Window
from app.axes import Axis
from app.chunks import Block, Floats, Ints, make_block
from app.db import Database
from app.models import MetricChunk, Run
from app.outline import lies_in_one_bucket, read_outline
from app.reduce import reduce_to
from app.runs import NewRun

on_db = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def store(db: Database, blocks: list[Block]) -> str:
    with db.begin() as s:
        run_id = runs.create_run(s, NewRun(None), max_queued=10)[0].id
        for seq, block in enumerate(blocks, 1):
            series.append_chunks(s, run_id, seq, {"m": block})
    return run_id


def in_epochs(steps: Ints) -> Floats:
    return np.asarray(steps / 7, np.float64)


@on_db
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.sampled_from([8, 16, 40]),
    st.booleans(),
    st.sampled_from(["noise", "falling", "spike"]),
    st.tuples(st.floats(-10, 400), st.floats(-10, 400)) | st.none(),
)
def test_the_reduction_is_the_same_as_of_all_points(
    db: Database,
    seed: int,
    lengths: list[int],
    points: int,
    gaps: bool,
    kind: str,
    ends: tuple[float, float] | None,
) -> None:
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    steps = np.cumsum(rng.choice([1, 1, 1, 30], count) if gaps else np.ones(count, np.int64))
    falling, rising = 1 / (1.0 + np.arange(count)), np.arange(count) * 1e-3
    curves = {"noise": rng.normal(size=count), "falling": falling, "spike": rising}
    values = np.asarray(curves[kind], np.float64)
    if kind == "spike":
        values[rng.integers(count)] = 100.0
    borders = np.cumsum([0, *lengths])
    parts = [slice(a, b) for a, b in pairwise(borders.tolist())]
    blocks = [make_block(steps[p], np.zeros(len(steps[p])), values[p]) for p in parts]
    run_id = store(db, blocks)
    window = (None, None) if ends is None else (min(ends), max(ends))
    with db.read() as s:
        found = read_outline(s, run_id, "m", in_epochs, window, points)
    assert found is not None
    thin, total = found

    x = in_epochs(steps)
    inside = np.ones(count, bool) if ends is None else (x >= min(ends)) & (x <= max(ends))
    assert total == inside.sum()
    whole = reduce_to(x[inside], values[inside], points)
    kept = reduce_to(in_epochs(thin.steps), thin.values, points)
    assert set(thin.steps.tolist()) <= set(steps[inside].tolist())
    if len(thin.steps) > points:
        assert thin.steps[kept].tolist() == steps[inside][whole].tolist()
        assert thin.values[kept].tolist() == values[inside][whole].tolist()
    else:  # so few are left that all are told, the extremes of every bucket among them
        assert set(steps[inside][whole].tolist()) <= set(thin.steps.tolist()) or total <= points


def test_a_very_long_series_opens_few_chunks(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=40_000)
    steps = np.arange(40_000)
    parts = [slice(n, n + 50) for n in range(0, 40_000, 50)]
    run_id = store(db, [make_block(steps[p], np.zeros(50), values[p]) for p in parts])
    opened: list[int] = []
    read_chunks = series.read_chunks

    def counted(s: object, run: str, metric: str, seqs: list[int]) -> object:
        opened.extend(seqs)
        return read_chunks(s, run, metric, seqs)  # type: ignore[arg-type]

    monkeypatch.setattr(series, "read_chunks", counted)
    with db.read() as s:
        found = read_outline(s, run_id, "m", lambda n: n.astype(np.float64), (None, None), 40)
    assert found is not None
    assert len(opened) < 24  # of 800: ten buckets have nine borders, and two ends
    kept = reduce_to(found[0].steps.astype(np.float64), found[0].values, 40)
    assert found[0].steps[kept].tolist() == reduce_to(steps.astype(np.float64), values, 40).tolist()


@pytest.mark.parametrize("axis", ["step", "epoch", "samples", "elapsed"])
@pytest.mark.parametrize("window", [(None, None), (200.0, 900.0), (9.0, 3.0)])
def test_the_api_tells_the_same_of_a_long_series(
    db: Database, monkeypatch: pytest.MonkeyPatch, axis: Axis, window: tuple[float | None, float | None]
) -> None:
    """With every series called long, and with none: the same points, the same total."""
    values = np.random.default_rng(0).normal(size=3_000)
    steps = np.arange(1, 3_001)
    parts = [slice(n, n + 20) for n in range(0, 3_000, 20)]
    run_id = store(db, [make_block(steps[p], steps[p].astype(np.float64), values[p]) for p in parts])
    with db.begin() as s:
        s.execute(update(Run).values(steps_per_epoch=3, spec={"batch_size": 4}, started_at=0.0))
    asked = api.Asked(axis, 100, Window(*window), 0.0, "json")

    def told(most: int) -> object:
        monkeypatch.setattr(api, "POINTS_AT_ONCE", most)
        monkeypatch.setattr(api, "LONG_POINTS", most)
        with db.read() as s:
            rows = {run_id: Revision(run_id, 1, 1)}
            return [(pair, json.loads(text)) for pair, text in api._encode(s, [(run_id, "m")], rows, asked)]

    assert told(10) == told(10_000_000)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_overlaps_or_is_old_is_read_whole(db: Database, odd: float) -> None:
    def outlined(run_id: str) -> object:
        with db.read() as s:
            return read_outline(s, run_id, "m", lambda n: n.astype(np.float64), (None, None), 8)

    assert outlined(store(db, [make_block([1, 2], [0, 0], [odd, 1])])) is None
    assert outlined(store(db, [make_block([1, 5], [0, 0], [0, 1]), make_block([3], [0], [1])])) is None
    old = store(db, [make_block([1, 2], [0, 0], [0, 1])])
    assert outlined(old) is not None
    with db.begin() as s:
        s.execute(update(MetricChunk).values(nonfinite=None))
    assert outlined(old) is None
    assert outlined("nobody") is None


def test_a_chunk_at_a_border_is_not_inside() -> None:
    x = np.asarray([[0.0, 0.9], [0.9, 1.1], [1.0, 1.5], [1.5, 2.0], [0.0, 1.0]])
    assert lies_in_one_bucket(x, 0.0, 10.0, 10).tolist() == [False, False, False, False, False]
    assert lies_in_one_bucket(np.asarray([[0.1, 0.9], [1.1, 1.9]]), 0.0, 10.0, 10).tolist() == [True, True]
