"""The state machine, on SQLite and Postgres."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import update
from sqlmodel import col, select

from app import queue, runs, series
from app.actor import asking
from app.db import Database, now
from app.errors import Conflict, Fenced, NotFound, TooMany, Unavailable
from app.models import (
    CANCELED,
    FAILED,
    FINISHED,
    PAUSED,
    QUEUED,
    RUNNING,
    STATES,
    MetricChunk,
    MetricSummary,
    Run,
    RunEvent,
)
from app.reaper import Reaper
from app.runs import Flags, NewRun
from app.runs.transition import NEXT, transition
from app.settings import Settings
from ml.spec import RunSpec
from tests.processes import redis_server


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


# -- a person's side -----------------------------------------------------------------------------------------


def claim(db: Database, run_id: str, *, lease_s: float = 20, worker: str = "w1") -> Run:
    with db.begin() as s:
        run = runs.claim_run(s, run_id, worker, lease_s)
    assert run is not None
    return run


def read(db: Database, run_id: str) -> Run:
    with db.read() as s:
        return runs.get_run(s, run_id)


def moves(db: Database, run_id: str) -> list[tuple[str | None, str]]:
    """Changes of state, without what was noted while the state stayed."""
    with db.read() as s:
        events = runs.list_events(s, run_id)
    return [(e.from_state, e.to_state) for e in events if e.from_state != e.to_state]


def end(db: Database, run_id: str, attempt: int, state: str) -> None:
    with db.begin() as s:
        runs.end_run(s, run_id, attempt, state, "w1", "because")


def losses(*steps: int) -> series.Points:
    """A point a step, the value a function of the step."""
    return {"train/loss": series.make_block(steps, [float(n) for n in steps], [1 / (1 + n) for n in steps])}


def stored_steps(db: Database, run_id: str, metric: str = "train/loss") -> list[int]:
    with db.read() as s:
        found = series.read_blocks(s, [run_id], [metric])
    block = found.get((run_id, metric), series.EMPTY)
    return [int(step) for step in block.steps]


def test_pause_then_resume_is_a_new_attempt_of_the_same_run(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    with db.begin() as s:
        assert runs.request_pause(s, run_id).state == RUNNING
    with db.begin() as s:
        assert runs.report(s, run_id, 1, 1, losses(1), lease_s=20) == Flags(cancel=False, pause=True)
    end(db, run_id, 1, PAUSED)
    assert read(db, run_id).pause_requested is False

    with db.begin() as s:
        assert runs.resume_run(s, run_id).state == QUEUED

    again = claim(db, run_id)
    assert (again.attempt, again.pause_requested) == (2, False)
    assert moves(db, run_id)[1:] == [
        (QUEUED, RUNNING),
        (RUNNING, PAUSED),
        (PAUSED, QUEUED),
        (QUEUED, RUNNING),
    ]


@pytest.mark.parametrize("state", [PAUSED, FAILED, CANCELED])
def test_what_stopped_can_be_resumed_with_a_clean_slate(db: Database, state: str) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    end(db, run_id, 1, state)
    with db.begin() as s:
        run = runs.resume_run(s, run_id)

    assert (run.state, run.failures, run.error, run.ended_at, run.cancel_requested) == (
        QUEUED,
        0,
        None,
        None,
        False,
    )


@pytest.mark.parametrize("state", [QUEUED, RUNNING, FINISHED])
def test_what_waits_runs_or_is_finished_cannot_be_resumed(db: Database, state: str) -> None:
    run_id = make_run(db)
    if state != QUEUED:
        claim(db, run_id)
    if state == FINISHED:
        end(db, run_id, 1, FINISHED)
    with pytest.raises(Conflict, match=state), db.begin() as s:
        runs.resume_run(s, run_id)


@pytest.mark.parametrize("state", [QUEUED, PAUSED, FINISHED, FAILED, CANCELED])
def test_only_what_runs_can_be_paused(db: Database, state: str) -> None:
    run_id = make_run(db)
    if state != QUEUED:
        claim(db, run_id)
        end(db, run_id, 1, state)
    with pytest.raises(Conflict, match=state), db.begin() as s:
        runs.request_pause(s, run_id)


def test_cancel_of_a_running_run_is_a_flag_that_its_next_flush_reads(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    for _ in range(2):  # asking twice is no error
        with db.begin() as s:
            assert runs.request_cancel(s, run_id).cancel_requested
    with db.begin() as s:
        assert runs.report(s, run_id, 1, 1, {}, lease_s=20).cancel
    end(db, run_id, 1, CANCELED)

    assert read(db, run_id).state == CANCELED
    with db.read() as s:
        assert [e.reason for e in runs.list_events(s, run_id)].count("cancel asked for") == 1


def test_cancel_of_a_paused_run_is_final_at_once(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    end(db, run_id, 1, PAUSED)
    with db.begin() as s:
        assert runs.request_cancel(s, run_id).state == CANCELED


def test_cancel_and_finish_at_once_give_one_end(db: Database) -> None:
    for _ in range(10):
        run_id = make_run(db)
        claim(db, run_id)
        start = threading.Barrier(2)

        def cancel(run_id: str = run_id, start: threading.Barrier = start) -> bool:
            start.wait()
            with suppress(Conflict), db.begin() as s:
                runs.request_cancel(s, run_id)
                return True
            return False

        def finish(run_id: str = run_id, start: threading.Barrier = start) -> None:
            start.wait()
            end(db, run_id, 1, FINISHED)

        with ThreadPoolExecutor(2) as pool:
            asked, finished = pool.submit(cancel), pool.submit(finish)
            finished.result()
            asked.result()
        assert moves(db, run_id) == [(None, QUEUED), (QUEUED, RUNNING), (RUNNING, FINISHED)]


def test_only_what_has_ended_can_be_deleted_with_all_it_measured(db: Database) -> None:
    run_id = make_run(db)
    with pytest.raises(Conflict, match="queued"), db.begin() as s:
        runs.delete_run(s, run_id)
    claim(db, run_id)
    with db.begin() as s:
        runs.report(s, run_id, 1, 1, losses(1, 2), lease_s=20)
    with pytest.raises(Conflict, match="running"), db.begin() as s:
        runs.delete_run(s, run_id)
    end(db, run_id, 1, CANCELED)

    with db.begin() as s:
        runs.delete_run(s, run_id)

    with db.read() as s:
        for table in (Run, RunEvent, MetricChunk, MetricSummary):
            assert s.exec(select(table)).all() == []


# -- the worker's side ---------------------------------------------------------------------------------------


def give_back(db: Database, run_id: str, *, max_failures: int = 3) -> str | None:
    with db.begin() as s:
        run = runs.get_run(s, run_id, lock=True)
        return runs.give_back(s, run, "w1", "it died", max_failures=max_failures, tail="last words")


def test_an_attempt_that_dies_goes_back_with_growing_pauses_and_fails_at_last(db: Database) -> None:
    run_id = make_run(db)
    waits = []
    for attempt in (1, 2):
        assert claim(db, run_id).attempt == attempt
        assert give_back(db, run_id) == QUEUED
        run = read(db, run_id)
        waits.append(run.not_before - run.queued_at)
        with db.begin() as s:
            assert runs.claim_run(s, run_id, "w1", 20) is None  # not yet
        with db.begin() as s:
            assert runs.take_unpublished(s, after_s=0) == []  # nor is a message sent
            s.execute(update(Run).values(not_before=0))
    assert waits == [1, 5]
    claim(db, run_id)
    assert give_back(db, run_id) == FAILED

    run = read(db, run_id)
    assert run.error == "it died; gave up after 3 failed attempts"
    assert (run.error_tail, run.failures, run.lease_until) == ("last words", 3, None)


def test_giving_back_a_run_that_another_attempt_holds_changes_nothing(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id, lease_s=-1)
    with db.begin() as s:
        stale = runs.get_run(s, run_id)
        assert runs.reap_expired(s, max_failures=3) == [(run_id, QUEUED)]
        s.execute(update(Run).values(not_before=0))
    claim(db, run_id, worker="w2")
    with db.begin() as s:
        assert runs.give_back(s, stale, "w1", "late", max_failures=3) is None
        assert runs.release_run(s, run_id, 1, "w1", "late") is False
    with pytest.raises(Fenced), db.begin() as s:
        runs.end_run(s, run_id, 1, FINISHED, "w1", "late")
    with pytest.raises(Fenced), db.begin() as s:
        runs.rewind(s, run_id, 1, None, "w1", "late")
    assert (read(db, run_id).attempt, read(db, run_id).worker) == (2, "w2")


@pytest.mark.parametrize("how", ["dies", "released", "lease expires"])
@pytest.mark.parametrize(("ask", "state"), [("cancel", CANCELED), ("pause", PAUSED)])
def test_what_was_asked_for_holds_though_the_trainer_never_saw_it(
    db: Database, how: str, ask: str, state: str
) -> None:
    run_id = make_run(db)
    claim(db, run_id, lease_s=-1)
    with db.begin() as s:
        (runs.request_cancel if ask == "cancel" else runs.request_pause)(s, run_id)
    if how == "dies":
        assert give_back(db, run_id) == state
    elif how == "released":
        with db.begin() as s:
            assert runs.release_run(s, run_id, 1, "w1", "shutdown")
    else:
        with db.begin() as s:
            assert runs.reap_expired(s, max_failures=3) == [(run_id, state)]

    run = read(db, run_id)
    assert (run.state, run.cancel_requested, run.pause_requested) == (state, False, False)


def test_cancel_asked_for_after_pause_wins(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    with db.begin() as s:
        runs.request_pause(s, run_id)
        runs.request_cancel(s, run_id)
    end(db, run_id, 1, PAUSED)

    assert read(db, run_id).state == CANCELED


def test_a_released_run_is_not_charged_and_waits_for_its_message(db: Database) -> None:
    run_id = make_run(db)
    with db.begin() as s:
        runs.mark_published(s, [run_id])
    claim(db, run_id)
    with db.begin() as s:
        assert runs.release_run(s, run_id, 1, "w1", "shutdown")
        assert runs.take_unpublished(s, after_s=100) == [run_id]
    assert (read(db, run_id).failures, claim(db, run_id).attempt) == (0, 2)


def checkpoint_at(step: int, epoch: int = 1) -> dict[str, Any]:
    return {"file": f"checkpoint-1-{step}.pt", "sha256": "0", "step": step, "epoch": epoch, "previous": None}


def test_a_claim_cuts_the_series_behind_the_checkpoint(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id, lease_s=-1)
    with db.begin() as s:
        runs.report(s, run_id, 1, 1, losses(1, 2, 3), lease_s=-1, step=3, checkpoint=checkpoint_at(4))
        runs.report(s, run_id, 1, 2, losses(4, 5, 6), lease_s=-1, step=6)
        runs.report(s, run_id, 1, 3, losses(7), lease_s=-1, step=7)
        runs.reap_expired(s, max_failures=3)
        s.execute(update(Run).values(not_before=0))
    run = claim(db, run_id)

    assert (run.step, run.epoch, run.seq) == (4, 1, 3)
    assert stored_steps(db, run_id) == [1, 2, 3, 4]
    with db.read() as s:
        (row,) = series.list_summaries(s, [run_id])[run_id]
    assert (row.count, row.last_step, row.last, row.min, row.min_step, row.max_step) == (4, 4, 0.2, 0.2, 4, 1)
    with db.begin() as s:
        runs.report(s, run_id, 2, 4, losses(5, 6), lease_s=20, step=6)
    assert stored_steps(db, run_id) == [1, 2, 3, 4, 5, 6]


def test_a_claim_without_a_checkpoint_starts_from_nothing(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    with db.begin() as s:
        runs.report(s, run_id, 1, 1, losses(1, 2, 3), lease_s=20, step=3, epoch=1)
        runs.release_run(s, run_id, 1, "w1", "shutdown")
    run = claim(db, run_id)

    assert (run.step, run.epoch) == (0, 0)
    assert stored_steps(db, run_id) == []
    with db.read() as s:
        assert series.list_summaries(s, [run_id]) == {run_id: []}


@pytest.mark.parametrize("to", [2, None])
def test_rewind_goes_back_to_an_older_checkpoint_or_the_start(db: Database, to: int | None) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    with db.begin() as s:
        runs.report(s, run_id, 1, 1, losses(1, 2, 3, 4), lease_s=20, step=4, checkpoint=checkpoint_at(4))
        runs.rewind(s, run_id, 1, checkpoint_at(to) if to else None, "w1", "damaged")

    run = read(db, run_id)
    assert (run.step, run.checkpoint and run.checkpoint["step"]) == (to or 0, to)
    assert stored_steps(db, run_id) == [1, 2, 3, 4][: to or 0]
    with db.read() as s:
        reason = runs.list_events(s, run_id)[-1].reason
    assert reason == ("damaged; goes on from step 2" if to else "damaged; starts again from the beginning")


# -- the reaper's side ---------------------------------------------------------------------------------------


@pytest.fixture
def reaper(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reaper:
    """A reaper whose broker does not answer."""
    nowhere = queue.make_celery(f"redis+socket://{tmp_path}/nothing.sock", max_retries=0)
    monkeypatch.setattr(queue, "publisher", nowhere)
    return Reaper(db, Settings(data_dir=tmp_path, lease_s=20))


def asleep(reaper: Reaper, seconds: float) -> None:
    reaper._last_tick -= seconds


def test_the_reaper_takes_back_only_what_has_expired(db: Database, reaper: Reaper) -> None:
    dead, live, outside = make_run(db), make_run(db), make_external(db)
    claim(db, dead, lease_s=-1)
    claim(db, live)
    reaper.tick()

    assert [read(db, run_id).state for run_id in (dead, live, outside)] == [QUEUED, RUNNING, RUNNING]
    assert read(db, dead).failures == 1
    with db.read() as s:
        assert runs.list_events(s, dead)[-1].actor == "reaper"


def test_a_reaper_that_slept_extends_leases_once_instead(db: Database, reaper: Reaper) -> None:
    run_id = make_run(db)
    claim(db, run_id, lease_s=-1)
    asleep(reaper, 60)
    reaper.tick()
    run = read(db, run_id)
    assert run.state == RUNNING
    assert run.lease_until is not None
    assert run.lease_until > run.updated_at + 10
    reaper.tick()
    assert read(db, run_id).state == RUNNING

    with db.begin() as s:
        s.execute(update(Run).values(lease_until=1.0))
    reaper.tick()
    assert read(db, run_id).state == QUEUED


def test_a_tick_that_the_database_refused_counts_as_sleep(
    db: Database, db_url: str, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = make_run(db)
    claim(db, run_id, lease_s=-1)
    asleep(reaper, 60)
    unreachable = Database(
        f"sqlite:////{reaper}/none.db" if db.is_sqlite else db_url.rsplit("/", 1)[0] + "/none"
    )
    monkeypatch.setattr(reaper, "_db", unreachable)
    with pytest.raises(Unavailable):
        reaper.tick()
    unreachable.dispose()
    monkeypatch.setattr(reaper, "_db", db)
    reaper.tick()

    assert read(db, run_id).state == RUNNING


def test_forgotten_runs_are_taken_once_a_while_the_oldest_first(db: Database) -> None:
    first, second, sent, running = (make_run(db) for _ in range(4))
    claim(db, running)
    with db.begin() as s:
        runs.mark_published(s, [sent])
    with db.begin() as s:
        assert runs.has_unpublished(s, after_s=15)
        assert runs.take_unpublished(s, after_s=15, limit=1) == [first]
        assert runs.take_unpublished(s, after_s=15) == [second]
        assert runs.take_unpublished(s, after_s=15) == []
        assert not runs.has_unpublished(s, after_s=15)
        s.execute(update(Run).values(published_at=1.0))
        assert set(runs.take_unpublished(s, after_s=15)) == {first, second, sent}


def test_the_reaper_leaves_what_the_broker_does_not_take_for_later(db: Database, reaper: Reaper) -> None:
    run_id = make_run(db)
    reaper.tick()

    run = read(db, run_id)
    assert run.state == QUEUED
    assert run.published_at is None  # the next tick tries again


def test_a_tick_after_one_that_failed_extends_leases(
    db: Database, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = make_run(db)
    claim(db, run_id, lease_s=-1)

    def refuse(*_: object, **__: object) -> None:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "reap_expired", refuse)
        with pytest.raises(Unavailable):
            reaper.tick()
    reaper.tick()
    assert read(db, run_id).state == RUNNING


@pytest.mark.parametrize("at_start", [True, False])
def test_a_clock_that_is_set_back_leaves_no_lease_for_hours(
    db: Database, reaper: Reaper, at_start: bool
) -> None:
    running, waiting = make_run(db), make_run(db)
    claim(db, running)
    if not at_start:
        reaper.tick()
    with db.begin() as s:
        later = now(s) + 3600
        s.execute(update(Run).where(col(Run.id) == running).values(lease_until=later))
        s.execute(update(Run).where(col(Run.id) == waiting).values(not_before=later, published_at=later))
    if not at_start:
        reaper._last_tick += 3600
    reaper.tick()
    lease = read(db, running).lease_until
    assert lease is not None
    assert lease < later - 3000
    assert read(db, waiting).not_before < later - 3000
    assert read(db, waiting).published_at is None


def test_messages_are_sent_again_sooner_when_some_are_lost_and_never_pile_up(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server(tmp_path) as broker:
        monkeypatch.setattr(queue, "publisher", queue.make_celery(broker.broker_url, max_retries=0))
        reaper = Reaper(db, Settings(data_dir=tmp_path, lease_s=20))
        for _ in range(3):
            make_run(db)

        def waiting_after(ago_s: float) -> int | None:
            """How many messages wait after a tick, when the runs' were sent so long ago."""
            with db.begin() as s:
                sent = update(Run).where(col(Run.published_at).is_not(None))
                s.execute(sent.values(published_at=now(s) - ago_s))
            reaper.tick()
            return queue.depth()

        assert waiting_after(0) == 3  # they had never been sent
        assert waiting_after(20) == 3  # all there: they wait for a slot
        assert waiting_after(61) == 6  # but these may be other runs'
        assert waiting_after(1_000) == 6  # no more copies than that
        with Redis.from_url(broker.url) as client:
            client.flushall()
        assert waiting_after(5) == 0
        assert waiting_after(20) == 3  # fewer than runs: some are lost


def test_a_database_that_is_always_busy_spares_the_dead_once(
    db: Database, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    monkeypatch.setattr("app.reaper.BUSY_S", -1.0)
    states = []
    for _ in range(2):
        with db.begin() as s:
            s.execute(update(Run).values(lease_until=1.0))
        reaper.tick()
        states.append(read(db, run_id).state)
    assert states == [RUNNING, QUEUED]


# -- external runs -------------------------------------------------------------------------------------------


def make_external(db: Database, **more: object) -> str:
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(None, **more), max_queued=10)  # type: ignore[arg-type]
        return run.id


@pytest.mark.parametrize("state", [FINISHED, FAILED, CANCELED])
def test_an_external_run_runs_at_once_and_its_script_ends_it(db: Database, state: str) -> None:
    run_id = make_external(db, params={"model": "mine"})
    assert (read(db, run_id).state, read(db, run_id).model) == (RUNNING, "mine")
    with db.begin() as s:
        assert runs.append_external(s, run_id, "b1", losses(3, 4)) == (1, True)
        assert runs.append_external(s, run_id, "b1", losses(3, 4)) == (1, False)
        assert runs.append_external(s, run_id, "b2", losses(1)) == (2, True)
    assert (read(db, run_id).step, stored_steps(db, run_id)) == (4, [1, 3, 4])
    with db.begin() as s:
        runs.finish_external(s, run_id, state, "why" if state == FAILED else None)

    assert (read(db, run_id).state, read(db, run_id).ended_at is None) == (state, False)
    with db.begin() as s:  # the answer to b2 was lost, and the script sends it again
        assert runs.append_external(s, run_id, "b2", losses(1)) == (2, False)
    with pytest.raises(Conflict, match=state), db.begin() as s:
        runs.append_external(s, run_id, "b3", losses(5))
    with pytest.raises(Conflict, match=state), db.begin() as s:
        runs.finish_external(s, run_id, FINISHED, None)
    with pytest.raises(Conflict, match=state), db.begin() as s:
        runs.request_cancel(s, run_id)
    with pytest.raises(Conflict, match=state), db.begin() as s:
        runs.resume_run(s, run_id)


def test_steps_of_an_external_run_may_be_as_large_as_a_float_can_count(db: Database) -> None:
    run_id = make_external(db)
    with db.begin() as s:
        runs.append_external(s, run_id, None, losses(2**53))
    assert read(db, run_id).step == 2**53


def test_a_worker_never_gets_an_external_run(db: Database) -> None:
    run_id = make_external(db)
    with db.begin() as s:
        assert runs.claim_run(s, run_id, "w1", 20) is None
        assert runs.take_unpublished(s, after_s=0) == []
    with pytest.raises(Conflict), db.begin() as s:
        runs.request_pause(s, run_id)


def test_a_training_takes_no_metrics_or_end_from_outside(db: Database) -> None:
    run_id = make_run(db)
    with pytest.raises(Conflict), db.begin() as s:
        runs.append_external(s, run_id, None, losses(1))
    with pytest.raises(Conflict), db.begin() as s:
        runs.finish_external(s, run_id, FINISHED, None)


# -- at once -------------------------------------------------------------------------------------------------


def test_an_idempotency_key_sent_many_times_at_once_makes_one_run(db: Database) -> None:
    start = threading.Barrier(8)

    def submit(_: int) -> str:
        start.wait()
        return make_run(db, idempotency_key="k")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(submit, range(8)))) == 1


def test_threads_that_claim_at_once_win_each_run_once(db: Database) -> None:
    with db.begin() as s:
        made = [runs.create_run(s, NewRun(RunSpec()), max_queued=100)[0].id for _ in range(30)]

    def claim_all(worker: int) -> list[str]:
        won = []
        for run_id in made[worker:] + made[:worker]:
            with db.begin() as s:
                if runs.claim_run(s, run_id, f"w{worker}", 20) is not None:
                    won.append(run_id)
        return won

    with ThreadPoolExecutor(8) as pool:
        wins = [run_id for won in pool.map(claim_all, range(8)) for run_id in won]
    assert sorted(wins) == sorted(made)
    with db.read() as s:
        assert {run.attempt for run in s.exec(select(Run))} == {1}
        claims = s.exec(select(RunEvent.run_id).where(RunEvent.to_state == RUNNING)).all()
    assert sorted(claims) == sorted(made)


def test_a_checkpoint_forgives_earlier_failures(db: Database) -> None:
    run_id = make_run(db)
    with db.begin() as s:
        runs.claim_run(s, run_id, "w1", lease_s=-1)
    with db.begin() as s:
        runs.reap_expired(s, max_failures=3)
        assert runs.get_run(s, run_id).failures == 1
        s.execute(update(Run).where(col(Run.id) == run_id).values(not_before=0.0))
    pointer = {"file": "checkpoint-2-1.pt", "sha256": "0", "step": 1, "epoch": 1}
    with db.begin() as s:
        runs.claim_run(s, run_id, "w2", 20)
        runs.report(s, run_id, 2, 1, {}, lease_s=20, step=1, checkpoint=pointer)
        assert runs.get_run(s, run_id).failures == 0


# -- what people read ----------------------------------------------------------------------------------------


def story(db: Database, run_id: str) -> list[str]:
    """The run's events as people read them."""
    with db.read() as s:
        return [f"{event.to_state}: {event.reason} ({event.actor})" for event in runs.list_events(s, run_id)]


def reap(db: Database) -> None:
    """As if every lease had expired, and every pause were over."""
    with db.begin() as s:
        s.execute(update(Run).where(col(Run.state) == RUNNING).values(lease_until=1.0))
        runs.reap_expired(s, max_failures=3)
        s.execute(update(Run).values(not_before=0))


def test_events_tell_what_happened_and_what_comes_of_it(db: Database) -> None:
    run_id = make_run(db)
    claim(db, run_id, worker="gpu-1")
    reap(db)
    claim(db, run_id, worker="gpu-2")
    with db.begin() as s:
        runs.report(s, run_id, 2, 1, losses(1), lease_s=20, step=4_300, checkpoint=checkpoint_at(4_200))
    reap(db)
    claim(db, run_id, worker="gpu-3")
    with db.begin() as s:
        runs.release_run(s, run_id, 3, "gpu-3", "worker gpu-3 shuts down")
    claim(db, run_id, worker="gpu-4")
    for attempt in (4, 5):
        with db.begin() as s:
            run = runs.get_run(s, run_id)
            runs.give_back(s, run, f"gpu-{attempt}", "the trainer was killed by signal 9", max_failures=3)
            s.execute(update(Run).values(not_before=0))
        if attempt == 4:
            claim(db, run_id, worker="gpu-5")
    with db.begin() as s:
        runs.resume_run(s, run_id)

    assert story(db, run_id) == [
        "queued: submitted (user)",
        "running: claimed by gpu-1 (gpu-1)",
        "queued: worker gpu-1 stopped answering; starts again from the beginning in 1 s (reaper)",
        "running: claimed by gpu-2 (gpu-2)",
        "queued: worker gpu-2 stopped answering; resumes from step 4,200 in 1 s (reaper)",
        "running: claimed by gpu-3; resumes from step 4,200 (gpu-3)",
        "queued: worker gpu-3 shuts down; resumes from step 4,200 (gpu-3)",
        "running: claimed by gpu-4; resumes from step 4,200 (gpu-4)",
        "queued: the trainer was killed by signal 9; resumes from step 4,200 in 5 s (gpu-4)",
        "running: claimed by gpu-5; resumes from step 4,200 (gpu-5)",
        "failed: the trainer was killed by signal 9; gave up after 3 failed attempts (gpu-5)",
        "queued: resumed from step 4,200 (user)",
    ]


@pytest.mark.parametrize(("ask", "word"), [(runs.request_cancel, "cancel"), (runs.request_pause, "pause")])
@pytest.mark.parametrize("how", ["the trainer stops", "the lease expires"])
def test_who_asked_is_named_though_a_worker_did_it(db: Database, ask: Any, word: str, how: str) -> None:
    run_id = make_run(db)
    claim(db, run_id)
    with db.begin() as s:
        runs.report(s, run_id, 1, 1, losses(1), lease_s=20, step=1_234)
    before = asking.set("alice")
    try:
        with db.begin() as s:
            ask(s, run_id)
            ask(s, run_id)  # asking twice is one event
    finally:
        asking.reset(before)
    done = f"{word}ed" if word == "cancel" else "paused"
    if how == "the trainer stops":
        end(db, run_id, 1, done)
        expected = f"{done}: {done} at step 1,234 (alice)"
    else:
        reap(db)
        expected = f"{done}: {done} at step 1,234: worker w1 stopped answering (alice)"
    assert story(db, run_id)[2:] == [f"running: {word} asked for (alice)", expected]


def test_pauses_between_failures_grow_to_a_limit(db: Database) -> None:
    run_id = make_run(db)
    waits = []
    for _ in range(5):
        claim(db, run_id)
        assert give_back(db, run_id, max_failures=100) == QUEUED
        run = read(db, run_id)
        waits.append(run.not_before - run.queued_at)
        with db.begin() as s:
            s.execute(update(Run).values(not_before=0))
    assert waits == [1, 5, 25, 25, 25]


@pytest.mark.parametrize("state", [QUEUED, PAUSED, FINISHED, FAILED, CANCELED])
def test_only_what_is_legal_can_be_moved(db: Database, state: str) -> None:
    run_id = make_run(db)
    with db.begin() as s:
        s.execute(update(Run).values(state=state))
    for to_state in STATES:
        if to_state not in NEXT[state]:
            with (
                pytest.raises(Conflict, match=f"a run that is {state} cannot become {to_state}"),
                db.begin() as s,
            ):
                transition(s, run_id, state, to_state, "nobody", "for no reason")
    assert (read(db, run_id).state, len(story(db, run_id))) == (state, 1)


def test_a_waiting_run_cannot_be_paused(db: Database) -> None:
    run_id = make_run(db)
    with pytest.raises(Conflict, match="pause it once it runs"), db.begin() as s:
        runs.request_pause(s, run_id)
    with db.begin() as s:
        s.execute(update(Run).values(state=PAUSED))
        runs.request_cancel(s, run_id)
    assert story(db, run_id)[-1] == "canceled: canceled while it was paused (user)"
