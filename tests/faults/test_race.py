"""F18: the end of a run, and whatever else may happen to it at the same instant, on real databases."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlmodel import Session

from app import runs
from app.db import Database
from app.errors import Conflict, Fenced
from app.models import CANCELED, ENDED, FINISHED, PAUSED, RUNNING, Run
from app.series import make_block
from ml.spec import RunSpec
from tests.faults.figures import Figures
from tests.faults.invariants import assert_legal

ROUNDS = 200
JITTER_S = 0.004
WORKER = "worker-1"

Actor = Callable[[Session, Run], None]


def cancel(s: Session, run: Run) -> None:
    runs.request_cancel(s, run.id)


def pause(s: Session, run: Run) -> None:
    runs.request_pause(s, run.id)


def finish(s: Session, run: Run) -> None:
    """A trainer that has written its last flush."""
    runs.end_run(s, run.id, run.attempt, FINISHED, WORKER, "trained to the end")


def obey(s: Session, run: Run) -> None:
    """A trainer that reads what is asked of it in the reply to a flush, and stops for it."""
    points = {"train/loss": make_block([1], [1.0], [0.5])}
    flags = runs.report(s, run.id, run.attempt, run.seq + 1, points, lease_s=60, step=1)
    if flags.cancel or flags.pause:
        runs.end_run(s, run.id, run.attempt, CANCELED if flags.cancel else PAUSED, WORKER, "as asked")


def record_exit(s: Session, run: Run) -> None:
    """A supervisor whose trainer has died."""
    current = runs.get_run(s, run.id, lock=True)
    if (current.attempt, current.state) == (run.attempt, RUNNING):
        runs.give_back(s, current, WORKER, "the trainer was killed", max_failures=1)


def reap(s: Session, run: Run) -> None:
    runs.reap_expired(s, max_failures=2)


ACTORS: list[Actor] = [cancel, pause, finish, obey, record_exit, reap]


def test_cancel_and_finish_at_once_end_a_run_once(db: Database, figures: Figures) -> None:
    """F18 cancel against finish: 200 interleavings of a person, the trainer, its supervisor and the reaper."""
    dice = random.Random(18)
    ends: Counter[str] = Counter()
    figures.strike()
    with ThreadPoolExecutor(len(ACTORS)) as pool:
        for _ in range(ROUNDS):
            actors = [cancel, *dice.sample(ACTORS[1:], k=dice.randint(1, 3))]
            dice.shuffle(actors)
            run = claim_new_run(db, lease_s=dice.choice([-1.0, 60.0]))
            start = threading.Barrier(len(actors))
            jobs = [pool.submit(act, db, run, actor, start, dice.random() * JITTER_S) for actor in actors]
            told = {actor: job.result(60) for actor, job in zip(actors, jobs, strict=True)}
            ends[assert_ended_once(db, run, told)] += 1
    figures.since("SQLite" if db.is_sqlite else "Postgres", f"all {ROUNDS}")
    assert ends[CANCELED] > 10, ends  # each of them won at times
    assert ends[FINISHED] > 10, ends


def claim_new_run(db: Database, lease_s: float) -> Run:
    with db.begin() as s:
        made, _ = runs.create_run(s, runs.NewRun(RunSpec(dataset="digits")), max_queued=1_000)
    with db.begin() as s:
        run = runs.claim_run(s, made.id, WORKER, lease_s)
    assert run is not None
    return run


def act(db: Database, run: Run, actor: Actor, start: threading.Barrier, late_s: float) -> bool:
    """Whether it could do what it wanted; the transaction is its own, as in the processes."""
    start.wait(60)
    threading.Event().wait(late_s)
    try:
        with db.begin() as s:
            actor(s, run)
    except (Conflict, Fenced):
        return False
    return True


def assert_ended_once(db: Database, run: Run, told: dict[Actor, bool]) -> str:
    """The state that it ended in: one, that of the log, and the one that somebody was told."""
    with db.begin() as s:
        record_exit(s, run)  # the trainer is gone in the end, whoever won
    with db.read() as s:
        now, events = runs.get_run(s, run.id), list(runs.list_events(s, run.id))
    assert_legal(events, now)
    assert now.state in ENDED, now.state
    assert sum(event.to_state in ENDED for event in events) == 1
    if told[cancel]:
        assert now.state in (CANCELED, FINISHED)
    assert (now.state == FINISHED) == told.get(finish, False)
    return now.state
