"""The yard of a soak: workers, web process, Redis and database that can be struck and started again without waiting."""

from __future__ import annotations

import re
import socket
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
from sqlalchemy import func
from sqlmodel import Session, col, select

from app.errors import TrainyardError
from app.models import QUEUED, RUNNING, Run, RunEvent
from tests import processes
from tests.faults.yard import Yard, a_yard, kill, output_of
from tests.processes import Postgres, Process, Web, answers

SLOTS = 2
# A run that was killed often is no broken one, so it is never given up. Checkpoints are frequent, so that much happens;
# the lease is no shorter than a trainer of an overloaded machine may take from one flush to the next.
SETTINGS = {"MAX_FAILURES": "100", "LEASE_S": "10", "CHECKPOINT_S": "0.5"}
T = TypeVar("T")


class Grounds:
    """A yard whose parts come and go. `down` names those that were struck and are not back yet, `strikes` counts."""

    def __init__(self, yard: Yard, ours: ExitStack, beneath: ExitStack, postgres: Postgres | None) -> None:
        self.yard, self.postgres = yard, postgres
        self._ours, self._beneath = ours, beneath  # ended before the yard looks for strays; after it
        self.database = postgres.process if postgres else None
        self.workers: dict[int, tuple[Process, ExitStack]] = {}
        self.down: set[str] = set()
        self.strikes: Counter[str] = Counter()

    # -- what the database tells, while it is there -----------------------------------------------------------

    def ask(self, question: Callable[[Session], T | None]) -> T | None:
        """The answer of the database; None while it is away."""
        with suppress(TrainyardError), self.yard.db.read() as s:
            return question(s)
        return None

    def running(self, worker: str | None = None) -> dict[str, int]:
        """Attempts of the runs that are running, of one worker or of all."""
        query = select(Run.id, Run.attempt).where(col(Run.state) == RUNNING)
        if worker is not None:
            query = query.where(col(Run.worker) == worker)
        return dict(self.ask(lambda s: s.exec(query).all()) or ())

    def left_running(self, run_id: str, attempt: int) -> float | None:
        """When this attempt came to its end: Unix seconds, by the event log."""
        query = select(func.max(col(RunEvent.at))).where(
            col(RunEvent.run_id) == run_id,
            col(RunEvent.attempt) == attempt,
            col(RunEvent.from_state) == RUNNING,
            col(RunEvent.to_state) != RUNNING,
        )
        return self.ask(lambda s: s.exec(query).one())

    def first_claim(self, after: float) -> float | None:
        """When a run was claimed for the first time since `after`."""
        query = select(func.min(col(RunEvent.at))).where(
            col(RunEvent.at) > after, col(RunEvent.from_state) == QUEUED, col(RunEvent.to_state) == RUNNING
        )
        return self.ask(lambda s: s.exec(query).one())

    def first_flush(self, after: float) -> float | None:
        """When a run's row was written for the first time since `after`, or a little later."""
        query = select(func.min(col(Run.updated_at))).where(col(Run.updated_at) > after)
        return self.ask(lambda s: s.exec(query).one())

    def busy_trainers(self) -> list[tuple[str, psutil.Process]]:
        """Those that train, with the ids of their runs."""
        found = [(re.search(r"/runs/(\w+)/", output_of(one)), one) for one in self.yard.trainers()]
        return [(run.group(1), trainer) for run, trainer in found if run is not None]

    # -- parts ------------------------------------------------------------------------------------------------

    def start_worker(self, number: int) -> None:
        stack = ExitStack()
        process = stack.enter_context(self.yard.worker(slots=SLOTS))
        self.workers[number] = (process, stack)
        self.down.discard(f"worker {number}")

    def worker_name(self, number: int) -> str:
        return f"{socket.gethostname()}-{self.workers[number][0].pid}"

    def drop_worker(self, number: int) -> None:
        """Forget one that has ended."""
        self.workers.pop(number)[1].close()

    def stop_workers(self) -> None:
        for number in list(self.workers):
            self.drop_worker(number)

    def kill_worker(self, number: int) -> None:
        self.down.add(f"worker {number}")
        kill(self.workers[number][0])
        self.drop_worker(number)

    def launch_web(self) -> None:
        """Start the web process at its address; it is ready when `web_answers`."""
        env = self.yard.env | {
            "TRAINYARD_HOST": "127.0.0.1",
            "TRAINYARD_PORT": self.yard.web.url.rsplit(":", 1)[1],
        }
        command = [sys.executable, "-m", "app"]
        process = self._ours.enter_context(
            processes.running("web", command, directory=self.yard.directory, env=env)
        )
        self.yard.web = Web(self.yard.web.url, process)

    def web_answers(self) -> bool:
        return answers(f"{self.yard.web.url}/healthz")

    def start_redis(self) -> None:
        yard = self.yard
        yard.redis = self._beneath.enter_context(processes.redis_server(yard.directory, port=yard.redis_port))

    def start_postgres(self) -> None:
        assert self.postgres is not None
        self.database = self._beneath.enter_context(self.postgres.again(self.yard.directory))

    @contextmanager
    def sqlite_lock(self) -> Iterator[bool]:
        """Whether the write lock of the SQLite file is ours, as a process that took it and went to sleep has it."""
        path = self.yard.directory / "trainyard.db"
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0.05)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                yield False
                return
            yield True
            connection.execute("ROLLBACK")

    def mend(self) -> list[str]:
        """What ended though nobody struck it, started again: a line each."""
        parts = {"web": self.yard.web.process, "Redis": self.yard.redis.process}
        parts |= {"database": self.database} if self.database else {}
        parts |= {f"worker {number}": process for number, (process, _) in self.workers.items()}
        told = []
        for name, process in parts.items():
            if name not in self.down and process.popen.poll() is not None:
                told.append(
                    f"{name} ended by itself with {process.popen.returncode}:\n{process.output()[-2000:]}"
                )
                self._start_again(name)
        return told

    def _start_again(self, name: str) -> None:
        kind, _, number = name.partition(" ")
        if kind == "worker":
            self.drop_worker(int(number))
            self.start_worker(int(number))
        else:
            {"web": self.launch_web, "Redis": self.start_redis, "database": self.start_postgres}[kind]()


@contextmanager
def open_grounds(directory: Path, database: str, workers: int) -> Iterator[Grounds]:
    """A whole Trainyard under `directory`; afterwards none of its processes is left."""
    with ExitStack() as stack:
        postgres = (
            stack.enter_context(processes.postgres_server(directory)) if database == "postgres" else None
        )
        url = postgres.create_database() if postgres else None
        beneath = stack.enter_context(ExitStack())
        yard = stack.enter_context(a_yard(directory, database_url=url, **SETTINGS))
        ours = stack.enter_context(ExitStack())
        grounds = Grounds(yard, ours, beneath, postgres)
        ours.callback(grounds.stop_workers)
        for number in range(workers):
            grounds.start_worker(number)
        yield grounds


def wait(seconds: float) -> Iterator[None]:
    """Steps of a strike that only waits."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
