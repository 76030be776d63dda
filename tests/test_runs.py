"""The state machine, on SQLite and Postgres."""

from __future__ import annotations

import pytest

from app import runs, series
from app.db import Database
from app.errors import Conflict, Fenced, NotFound, TooMany
from app.models import CANCELED, FINISHED, QUEUED, RUNNING
from app.runs import NewRun
from ml.spec import RunSpec


def make_run(db: Database, **more: object) -> str:
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(RunSpec(), **more), max_queued=10)  # type: ignore[arg-type]
        return run.id


def test_a_run_goes_from_queued_to_finished_with_every_step_on_record(db: Database) -> None:
    run_id = make_run(db)
    with db.begin() as s:
        run = runs.claim_run(s, run_id, "w1", 20)
    assert run is not None
    assert (run.state, run.attempt) == (RUNNING, 1)
    points = {"train/loss": series.make_block([1, 2], [1.0, 2.0], [0.5, 0.25])}
    with db.begin() as s:
        flags = runs.report(s, run_id, 1, 1, points, lease_s=20, step=2)
    assert not flags.cancel
    with db.begin() as s:
        runs.end_run(s, run_id, 1, FINISHED, "w1", "trained to the end")
    with db.read() as s:
        assert runs.get_run(s, run_id).state == FINISHED
        moves = [(e.from_state, e.to_state) for e in runs.list_events(s, run_id)]
    assert moves == [(None, QUEUED), (QUEUED, RUNNING), (RUNNING, FINISHED)]


def test_a_superseded_attempt_cannot_write(db: Database) -> None:
    run_id = make_run(db)
    with db.begin() as s:
        first = runs.claim_run(s, run_id, "w1", lease_s=-1)
    assert first is not None
    with db.begin() as s:
        assert runs.reap_expired(s, max_failures=3) == [(run_id, QUEUED)]
    with pytest.raises(Fenced), db.begin() as s:
        runs.report(s, run_id, 1, 1, {}, lease_s=20)
    with db.read() as s:
        assert series.read_blocks(s, [run_id], ["train/loss"]) == {}


def test_a_flush_sent_twice_counts_once(db: Database) -> None:
    run_id = make_run(db)
    points = {"train/loss": series.make_block([1], [1.0], [0.5])}
    with db.begin() as s:
        runs.claim_run(s, run_id, "w1", 20)
    for _ in range(2):
        with db.begin() as s:
            runs.report(s, run_id, 1, 1, points, lease_s=20)
    with db.read() as s:
        (summary,) = series.list_summaries(s, [run_id])[run_id]
    assert summary.count == 1


def test_cancel_of_a_waiting_run_is_final_at_once(db: Database) -> None:
    run_id = make_run(db)
    with db.begin() as s:
        assert runs.request_cancel(s, run_id).state == CANCELED
    with db.begin() as s:
        assert runs.claim_run(s, run_id, "w1", 20) is None
    with pytest.raises(Conflict), db.begin() as s:
        runs.request_cancel(s, run_id)


def test_an_idempotency_key_makes_one_run(db: Database) -> None:
    first = make_run(db, idempotency_key="k")
    assert make_run(db, idempotency_key="k") == first
    with pytest.raises(Conflict), db.begin() as s:
        runs.create_run(s, NewRun(RunSpec(lr=0.5), idempotency_key="k"), max_queued=10)


def test_a_full_queue_refuses(db: Database) -> None:
    make_run(db)
    with pytest.raises(TooMany), db.begin() as s:
        runs.create_run(s, NewRun(RunSpec()), max_queued=1)


def test_an_unknown_run_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound), db.read() as s:
        runs.get_run(s, "nope")
