"""The Celery task: claim a run, give it to a trainer, watch it, record how it ended.

Retries are decided by the state machine, never by Celery: a message that is lost or doubled changes nothing.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlmodel import Session

from app import logs, runs, workers
from app.db import Database
from app.errors import NotFound, TrainyardError, Unavailable
from app.leftovers import remove_leftovers
from app.models import RUNNING, Run
from app.settings import Settings
from worker.children import Child
from worker.job import Job
from worker.room import Room
from worker.slots import Slots
from worker.trainer_exit import describe_exit, read_tail
from worker.writes import FIRST_S, LAST_S

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S = 0.5
STARTING_S = 120.0  # so long may a trainer take to its first step before the lease is left to expire
CANCEL_TERM_S, CANCEL_KILL_S = 5.0, 15.0
SHUTDOWN_KILL_S = 25.0
ENDING_S = 10.0  # after its run has ended elsewhere, a trainer may take so long to notice


@dataclass
class Supervisor:
    """What the task needs, one a worker.

    `leaving` is set when it takes no more runs, `stopping` when it lets go of those it has. `running` has the run of
    each slot.
    """

    db: Database
    settings: Settings
    slots: Slots
    name: str
    leaving: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    running: dict[int, str] = field(default_factory=dict)

    claiming: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.room = Room(self.db, self.settings, self.name)

    def supervise(self, run_id: str) -> None:
        """Train the run if it is still to be had; returns when its attempt is over."""
        if not isinstance(run_id, str):
            return  # what is no id came from elsewhere
        try:
            slots = self.reserve(run_id)
        except TrainyardError as error:
            log.warning("run %s: %s", run_id, error.message)
            return
        if not slots:
            return
        try:
            run = self.claim(run_id, *slots)
            if run is not None:
                with logs.bind(run=run.id, attempt=run.attempt, slot=slots[0]):
                    self.attempt(run, slots)
        except TrainyardError as error:
            log.warning("run %s: %s", run_id, error.message)
        finally:
            self.forget(slots)
            self.slots.release(slots)

    def forget(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self.running.pop(slot, None)

    def reserve(self, run_id: str) -> list[int]:
        """The slots that the run needs; none when it cannot be trained here, or when we leave before they are free.

        Then it stays queued in the database, and its message is sent again. Raises: NotFound.
        """
        needed = self.patiently(run_id, lambda: self.slots.count_needed(self.read_spec(run_id)))
        if needed is None:
            if not self.leaving.is_set():
                log.warning("run %s needs more GPUs than there are here", run_id)
            return []
        return self.slots.acquire(needed, self.leaving)

    def read_spec(self, run_id: str) -> dict[str, Any]:
        with self.db.read() as s:
            return runs.get_run(s, run_id).spec

    def claim(self, run_id: str, *slots: int) -> Run | None:
        """The run, ours now; None when it is not to be had, or when we leave before the database answers."""
        in_doubt = False

        def attempt() -> Run | None:
            nonlocal in_doubt
            if not self.room.wait(run_id, self.leaving):
                return None
            try:
                with self.claiming, self.db.begin() as s:
                    if in_doubt:
                        self.undo_claim(s, run_id)
                    run = runs.claim_run(s, run_id, self.name, self.settings.lease_s)
                    if run is not None:
                        self.running.update(dict.fromkeys(slots, run_id))
                return run
            except Unavailable:
                self.forget(slots)
                in_doubt = True
                raise

        return self.patiently(run_id, attempt)

    def patiently(self, run_id: str, attempt: Callable[[], T]) -> T | None:
        """What `attempt` returns, tried until the database answers; None when we leave before.

        A message is gone once it is taken, so while the database is away it is held here, with its slots.
        """
        delay_s = FIRST_S
        while not self.leaving.is_set():
            try:
                return attempt()
            except Unavailable as error:
                log.warning("run %s waits for the database: %s", run_id, error.message)
            self.leaving.wait(delay_s)
            delay_s = min(delay_s * 2, LAST_S)
        return None

    def undo_claim(self, s: Session, run_id: str) -> None:
        """A commit whose answer was lost may have been done: then the run is ours, and nobody trains it."""
        run = runs.get_run(s, run_id, lock=True)
        if run.state == RUNNING and run.worker == self.name and run_id not in self.running.values():
            why = f"worker {self.name} lost the database as it took the run"
            runs.release_run(s, run_id, run.attempt, self.name, why)

    def attempt(self, run: Run, slots: list[int]) -> None:
        log_path = self.settings.runs_dir / run.id / f"attempt-{run.attempt}.log"
        trainer = self.slots.take(slots[0])
        log.info("a trainer has the run")
        try:
            job = Job(run.id, run.attempt, run.seq, slots, self.name, run.spec, run.checkpoint, str(log_path))
            trainer.say(job.to_line())
            code = Watch(self, run, trainer).until_exit()
        finally:
            trainer.close()
        self.record_exit(run, code, log_path)
        remove_leftovers(self.db, self.settings.runs_dir, run.id, run.attempt)

    def record_exit(self, run: Run, code: int, log_path: Path) -> None:
        """When the trainer did not end its run itself, do it for it, at once instead of when the lease expires."""
        tail = read_tail(log_path)
        ended = describe_exit(code, tail)
        delay_s, tried_s = FIRST_S, 0.0
        while True:
            try:
                with self.db.begin() as s:
                    current = runs.get_run(s, run.id, lock=True)
                    if current.attempt != run.attempt or current.state != RUNNING:
                        return
                    if self.stopping.is_set():
                        # We ended it before it could let go itself: no fault of the run.
                        why = f"{workers.describe_leaving(s, self.name)}; {ended}"
                        runs.release_run(s, run.id, run.attempt, self.name, why)
                        return
                    state = runs.give_back(
                        s, current, self.name, ended, max_failures=self.settings.max_failures, tail=tail
                    )
                log.warning("run %s: %s; now %s", run.id, ended, state)
                return
            except NotFound:
                return
            except TrainyardError as error:
                log.warning("run %s: %s", run.id, error.message)
            if self.stopping.is_set() and tried_s >= LAST_S:
                return  # the lease expires, and the reaper does it
            time.sleep(delay_s)
            tried_s += delay_s
            delay_s = min(delay_s * 2, LAST_S)


class Watch:
    """One trainer until it exits: keeps the lease while it starts, and ends it when it should have ended."""

    def __init__(self, supervisor: Supervisor, run: Run, trainer: Child) -> None:
        self.supervisor, self.run, self.trainer = supervisor, run, trainer
        self.began = time.monotonic()
        self.since: dict[str, float] = {}

    def until_exit(self) -> int:
        while True:
            code = self.trainer.wait(POLL_S)
            if code is not None:
                return code
            try:
                self.obey()
                self.look()
            except NotFound:
                self.trainer.signal(signal.SIGKILL)
            except TrainyardError as error:
                log.warning("run %s: %s", self.run.id, error.message)

    def obey(self) -> None:
        """When the worker lets go, so must the trainer, whether or not the database answers."""
        stopped = self.lasted("stop", self.supervisor.stopping.is_set())
        if self.supervisor.stopping.is_set():
            self.terminate()
        if stopped > SHUTDOWN_KILL_S:
            self.trainer.signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM, once."""
        if "term" not in self.since:
            self.lasted("term", True)
            self.trainer.signal(signal.SIGTERM)

    def look(self) -> None:
        db, mine = self.supervisor.db, self.run.attempt
        with db.read() as s:
            current = runs.get_run(s, self.run.id)
        if current.attempt != mine:
            return self.trainer.signal(signal.SIGKILL)
        # Loading and importing may hold up a trainer's own thread for longer than a lease, on a busy machine.
        starting = current.step_rate is None and time.monotonic() - self.began < STARTING_S
        if starting and current.state == RUNNING:
            with db.begin() as s:
                runs.renew_lease(s, self.run.id, mine, self.supervisor.settings.lease_s)
        if current.state != RUNNING and self.lasted("ended", True) > ENDING_S:
            self.trainer.signal(signal.SIGKILL)
        asked = self.lasted("cancel", current.cancel_requested)
        if asked > CANCEL_TERM_S:
            self.terminate()
        if asked > CANCEL_KILL_S:
            self.trainer.signal(signal.SIGKILL)
        return None

    def lasted(self, what: str, holds: bool) -> float:
        """For how many seconds something has held; 0 when it has just begun or does not."""
        if not holds:
            self.since.pop(what, None)
            return 0.0
        at = time.monotonic()
        return at - self.since.setdefault(what, at)
