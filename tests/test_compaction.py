"""Compaction: fewer chunks, the same points, and no reader that sees a gap or a point twice."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from sqlmodel import col, func, select

from app import compaction, runs, series
from app.chunks import ChunkRow, chunk_row, merge_chunks, seqs_of, unpack_after
from app.compaction import compact_group, compact_some, find_uncompacted
from app.db import Database
from app.models import MetricChunk, Run
from app.runs import NewRun
from app.series import Block, make_block

on_db = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Points = dict[int, float]
Flush = dict[str, Points]

values = st.floats(width=64)
flushes = st.lists(
    st.dictionaries(
        st.sampled_from("ab"), st.dictionaries(st.integers(0, 40), values, min_size=1, max_size=6), min_size=1
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of a few points, so that short series have several."""
    monkeypatch.setattr(compaction, "CHUNK_POINTS", 12)
    monkeypatch.setattr(compaction, "MAX_FLUSHES", 4)
    monkeypatch.setattr(compaction, "LIVE_FLUSHES", 2)
    monkeypatch.setattr(compaction, "SETTLE_S", -1.0)


def external(db: Database) -> str:
    with db.begin() as s:
        return runs.create_run(s, NewRun(None), max_queued=10)[0].id


def block_of(points: Points) -> Block:
    steps = sorted(points)
    return make_block(steps, [step * 2.0 for step in steps], [points[step] for step in steps])


def write(db: Database, run_id: str, flush: Flush) -> int:
    with db.begin() as s:
        return runs.append_external(s, run_id, None, {m: block_of(points) for m, points in flush.items()})[0]


def end(db: Database, run_id: str) -> None:
    with db.begin() as s:
        runs.finish_external(s, run_id, "finished", None)


def read(db: Database, run_id: str) -> dict[str, Points]:
    with db.read() as s:
        blocks = series.read_blocks(s, [run_id], ["a", "b"])
    for block in blocks.values():
        assert (np.diff(block.steps) > 0).all()
        assert np.array_equal(block.times, block.steps * 2.0)
    return {m: dict(zip(b.steps.tolist(), b.values.tolist(), strict=True)) for (_, m), b in blocks.items()}


def same(one: dict[str, Points], other: dict[str, Points]) -> bool:
    return repr({m: sorted(p.items()) for m, p in sorted(one.items())}) == repr(
        {m: sorted(p.items()) for m, p in sorted(other.items())}
    )


def model_of(written: list[Flush]) -> dict[str, Points]:
    model: dict[str, Points] = {}
    for flush in written:
        for metric, points in flush.items():
            model.setdefault(metric, {}).update(points)
    return model


def follow(db: Database, run_id: str, cursor: int, seen: dict[str, Points]) -> int:
    """Reads on from a cursor as the event stream does, into `seen`; the new cursor."""
    while True:
        with db.read() as s:
            flushed = series.read_since(s, run_id, cursor, 3)
        if not flushed:
            return cursor
        for one in flushed:
            assert one.seq > cursor
            points = dict(zip(one.block.steps.tolist(), one.block.values.tolist(), strict=True))
            seen.setdefault(one.metric, {}).update(points)
        cursor = flushed[-1].seq


def chunks(db: Database, run_id: str) -> int:
    with db.read() as s:
        found = select(func.count()).select_from(MetricChunk).where(col(MetricChunk.run_id) == run_id)
        return s.exec(found).one()


@on_db
@given(flushes, st.integers(0, 12), st.integers(1, 12))
def test_points_stay_and_a_reader_goes_on_from_any_cursor(
    db: Database, written: list[Flush], cursor: int, stop_after: int
) -> None:
    """The reader has read up to `cursor`; then the run is compacted, in part or wholly; then it reads on."""
    run_id = external(db)
    for flush in written:
        write(db, run_id, flush)
    cursor = min(cursor, len(written))
    end(db, run_id)
    seen = model_of(written[:cursor])
    for _ in range(stop_after):
        with db.begin() as s:
            compact_group(s, run_id)

    assert same(read(db, run_id), model_of(written))
    behind = model_of(written[cursor:])
    fresh: dict[str, Points] = {}
    follow(db, run_id, cursor, fresh)
    told = {(m, step) for m, points in fresh.items() for step in points}
    # Nothing of a flush that the reader knows, unless a later one wrote that step again.
    assert told == {(m, step) for m, points in behind.items() for step in points}
    for metric, points in fresh.items():
        seen.setdefault(metric, {}).update(points)
    assert same(seen, model_of(written))


@on_db
@given(flushes)
def test_compacting_again_changes_nothing(db: Database, written: list[Flush]) -> None:
    run_id = external(db)
    for flush in written:
        write(db, run_id, flush)
    end(db, run_id)
    before = chunks(db, run_id)
    compact_some(db, within_s=10)
    after = chunks(db, run_id)
    compact_some(db, within_s=10)

    assert after == chunks(db, run_id) <= before
    with db.read() as s:
        assert run_id not in find_uncompacted(s, 1_000)
        run = runs.get_run(s, run_id)
    assert run.compacted_seq == run.seq
    with db.begin() as s:  # and from the start again
        s.execute(update(Run).where(col(Run.id) == run_id).values(compacted_seq=0))
    compact_some(db, within_s=10)
    assert same(read(db, run_id), model_of(written))


@on_db
@given(flushes, st.integers(0, 41), flushes)
def test_a_compacted_series_is_cut_and_goes_on(
    db: Database, written: list[Flush], step: int, more: list[Flush]
) -> None:
    run_id = external(db)
    for flush in written:
        write(db, run_id, flush)
    end(db, run_id)
    compact_some(db, within_s=10)
    with db.begin() as s:
        series.truncate_after(s, run_id, step)
        s.execute(update(Run).where(col(Run.id) == run_id).values(state="running"))
    for flush in more:
        write(db, run_id, flush)
    end(db, run_id)
    compact_some(db, within_s=10)

    cut = [{m: {k: v for k, v in p.items() if k <= step} for m, p in flush.items()} for flush in written]
    kept = [{m: p for m, p in flush.items() if p} for flush in cut]
    assert same(read(db, run_id), model_of([*kept, *more]))


def test_a_running_run_keeps_its_newest_flushes(db: Database) -> None:
    run_id = external(db)
    for step in range(1, 30):
        write(db, run_id, {"a": {step: 1 / step}})
    compact_some(db, within_s=10)
    with db.read() as s:
        seqs = s.exec(select(MetricChunk.seq).where(col(MetricChunk.run_id) == run_id)).all()
    assert sorted(seqs)[:6] == [4, 8, 12, 16, 20, 24]
    assert set(seqs) >= {28, 29}
    assert read(db, run_id)["a"] == {step: 1 / step for step in range(1, 30)}


def test_a_follower_and_a_writer_while_the_run_is_compacted(db: Database) -> None:
    """300 flushes, a reader behind them and the compactor between: the reader sees each point once, in order."""
    run_id = external(db)
    done = threading.Event()

    def compact() -> None:
        while not done.is_set():
            compact_some(db, within_s=0.05)

    compactor = threading.Thread(target=compact)
    compactor.start()
    told: list[int] = []
    cursor = 0
    try:
        for step in range(1, 301):
            write(db, run_id, {"a": {step: float(step)}, "b": {step: -float(step)}})
            if step % 7 == 0:
                with db.read() as s:
                    flushed = series.read_since(s, run_id, cursor, 5)
                told += [n for one in flushed if one.metric == "a" for n in one.block.steps.tolist()]
                cursor = flushed[-1].seq if flushed else cursor
    finally:
        done.set()
        compactor.join()
    end(db, run_id)
    compact_some(db, within_s=10)
    rest: dict[str, Points] = {}
    follow(db, run_id, cursor, rest)

    assert told + sorted(rest["a"]) == list(range(1, 301))
    assert chunks(db, run_id) < 220
    assert read(db, run_id)["b"] == {step: -float(step) for step in range(1, 301)}


def test_a_crash_in_the_middle_of_a_group_leaves_it_as_it_was(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = external(db)
    for step in range(1, 20):
        write(db, run_id, {"a": {step: 0.5}})
    end(db, run_id)
    before = chunks(db, run_id)

    def fails(*_: object) -> dict[str, object]:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "merge_chunks", fails)
        with pytest.raises(MemoryError):
            compact_some(db, within_s=10)
    assert chunks(db, run_id) == before
    compact_some(db, within_s=10)
    assert chunks(db, run_id) < before
    assert read(db, run_id)["a"] == dict.fromkeys(range(1, 20), 0.5)


def test_a_run_that_is_gone_or_held_is_left_alone(db: Database) -> None:
    run_id = external(db)
    write(db, run_id, {"a": {1: 1.0}})
    end(db, run_id)
    if not db.is_sqlite:  # SQLite has one writer at a time anyway
        with db.begin() as holder:
            runs.get_run(holder, run_id, lock=True)
            with db.begin() as s:
                assert not compact_group(s, run_id)
    with db.begin() as s:
        runs.delete_run(s, run_id)
    with db.begin() as s:
        assert not compact_group(s, run_id)


def test_marks_tell_each_points_flush() -> None:
    parts = [(3, [1, 2, 5]), (4, [6]), (9, [2, 7])]
    rows = []
    for seq, steps in parts:
        block = make_block(steps, [0.0] * len(steps), [float(seq)] * len(steps))
        row = chunk_row("r", "m", seq, block)
        rows.append(ChunkRow(**{n: row["count" if n == "length" else n] for n in ChunkRow._fields}))
    row = merge_chunks(rows, 9)
    merged = ChunkRow(**{n: row["count" if n == "length" else n] for n in ChunkRow._fields})

    assert unpack_after(merged, 0).steps.tolist() == [1, 2, 5, 6, 7]
    assert seqs_of(merged).tolist() == [3, 9, 3, 4, 9]
    assert unpack_after(merged, 4).steps.tolist() == [2, 7]


def test_flushes_as_large_as_a_chunk_are_passed_over_at_once(db: Database) -> None:
    """A script's batches: one transaction for all of them, not one each."""
    run_id = external(db)
    for first in range(0, 400, 20):
        write(db, run_id, {"a": dict.fromkeys(range(first, first + 20), 0.5)})
    write(db, run_id, {"a": {400: 0.5}})
    write(db, run_id, {"a": {401: 0.5}})
    end(db, run_id)
    before = chunks(db, run_id)
    assert compact_some(db, within_s=10) == 1
    assert chunks(db, run_id) == before - 1
    with db.read() as s:
        assert run_id not in find_uncompacted(s)
