"""A whole Trainyard of one test, each part of which can be killed, frozen, stopped and started again.

    with a_yard(directory, database_url=url, LEASE_S="3") as yard, yard.worker(slots=2) as worker:
        run_id = yard.submit(LONG)
        yard.wait_steps(run_id, 20)
        yard.trainer_of(run_id).kill()

What a run did is read straight from the database, so that it can be asked while the web process is down. Processes are
told by TRAINYARD_DATA_DIR in their environment: nothing that others started is ever seen or ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray
from redis import Redis
from sqlmodel import col, select

from app.db import Database
from app.models import ENDED, MetricChunk, Run, RunEvent
from app.settings import database_url as with_driver
from tests import processes
from tests.processes import Process, Web, wait_for
from worker.children import TRAINER

Json = dict[str, Any]

# Digits need no files; the CPU, as undisturbed runs are computed on it.
QUICK: Json = {
    "dataset": "digits",
    "train_size": 64,
    "val_size": 32,
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
}
LONG: Json = {**QUICK, "train_size": 512, "val_size": 64, "epochs": 10_000, "lr": 0.05, "momentum": 0.9,
              "model_options": {"activation": "relu"}}  # fmt: skip

SETTINGS = {
    "LEASE_S": "6",  # a busy machine keeps a healthy trainer from writing for seconds
    "CHECKPOINT_S": "0.4",
}  # short, so that a test need not wait for what takes 20 s and 10 s
MARK = "TRAINYARD_DATA_DIR"
SABOTEUR = Path(__file__).parent / "saboteur" / "sitecustomize.py"
STEP_S = 0.01  # a run that does not race ahead while a test waits, and leaves the processor to what is tested
WAIT_S = 150.0  # far more than anything takes: a busy machine is no fault
GONE_S = 30.0  # a trainer whose run has ended elsewhere may take 10 s to notice


class Series(NamedTuple):
    """All points of one metric as they lie in the database, by flush: steps [N], times [N] Unix seconds, values [N]."""

    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass
class Yard:
    """Redis, database and web process, and the workers that tests add."""

    directory: Path
    env: dict[str, str]
    db: Database
    cleanup: ExitStack
    redis_port: int
    redis: processes.Redis
    web: Web
    http: httpx.Client
    workers: list[Process] = field(default_factory=list)

    @property
    def backend(self) -> str:
        return "SQLite" if self.db.is_sqlite else "Postgres"

    @property
    def lease_s(self) -> float:
        return float(self.env["TRAINYARD_LEASE_S"])

    # -- parts --------------------------------------------------------------------------------------------------------

    @contextmanager
    def worker(
        self, slots: int = 1, *, step_s: float = STEP_S, sabotage: str = "", **settings: str
    ) -> Iterator[Process]:
        """A worker with `settings` of its own (without TRAINYARD_); stopped in good order at the end.

        Its trainers take `step_s` for a step at least. `sabotage` is what they do to themselves: "abort@10" at step 10,
        see `saboteur/sitecustomize.py`.
        """
        env = self.env | {f"TRAINYARD_{name}": value for name, value in settings.items()}
        saboteur = Path(tempfile.mkdtemp(prefix="saboteur-", dir=self.directory))
        shutil.copy(SABOTEUR, saboteur)
        (saboteur / "plan.json").write_text(json.dumps({"step_s": step_s, "sabotage": sabotage}))
        env |= {"PYTHONPATH": f"{saboteur}{os.pathsep}{processes.ROOT}"}  # which trainers are given too
        with processes.worker_process(env, slots, directory=self.directory) as process:
            self.workers.append(process)
            try:
                yield process
            finally:
                thaw(self.processes())  # what is stopped would not hear SIGTERM
                self.workers.remove(process)

    def start_web(self) -> Web:
        """The web process again, at the same address."""
        port = int(self.web.url.rsplit(":", 1)[1])
        self.web = self.cleanup.enter_context(
            processes.web_process(self.env, directory=self.directory, port=port)
        )
        return self.web

    def start_redis(self) -> None:
        """Redis again at the same address, empty."""
        self.redis = self.cleanup.enter_context(processes.redis_server(self.directory, port=self.redis_port))

    def broker(self) -> Redis:
        return Redis.from_url(self.redis.url)

    def processes(self) -> list[psutil.Process]:
        """Everything alive that runs on this yard's data directory: web, workers, trainers, strays."""
        return list(marked(self.directory))

    def family(self, worker: Process) -> list[psutil.Process]:
        """A worker and its trainers, the worker first."""
        ours = psutil.Process(worker.pid)
        return [ours, *ours.children(recursive=True)]

    def trainers(self) -> list[psutil.Process]:
        """Of all workers, those that wait for a run among them."""
        return [found for found in self.processes() if is_trainer(found)]

    def trainers_of(self, run_id: str) -> list[psutil.Process]:
        """Those that hold a log of the run open: one a live attempt."""
        return [found for found in self.trainers() if f"/runs/{run_id}/" in output_of(found)]

    def trainer_of(self, run_id: str) -> psutil.Process:
        """The only one; a run has two for a moment when one that hung was replaced."""

        def look() -> psutil.Process | None:
            holders = self.trainers_of(run_id)
            return holders[0] if len(holders) == 1 else None

        return wait_for(look, f"one trainer of run {run_id}", 60)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def submit(self, spec: Json, **changes: Any) -> str:
        answer = self.http.post("/api/v1/runs", json={"spec": {**spec, **changes}}).raise_for_status()
        run_id: str = answer.json()["id"]
        return run_id

    def ask(self, run_id: str, action: str) -> None:
        """cancel, pause or resume."""
        self.http.post(f"/api/v1/runs/{run_id}/{action}").raise_for_status()

    def run(self, run_id: str) -> Run:
        """The row as it is now, detached."""
        with self.db.read() as s:
            return s.exec(select(Run).where(col(Run.id) == run_id)).one()

    def events(self, run_id: str) -> list[RunEvent]:
        with self.db.read() as s:
            found = s.exec(select(RunEvent).where(col(RunEvent.run_id) == run_id).order_by(col(RunEvent.id)))
            return list(found.all())

    def reasons(self, run_id: str) -> list[str]:
        return [event.reason for event in self.events(run_id)]

    def claims(self, run_id: str) -> list[RunEvent]:
        """The events that began an attempt."""
        return [
            event
            for event in self.events(run_id)
            if (event.from_state, event.to_state) == ("queued", "running")
        ]

    def wait(
        self, run_id: str, condition: Callable[[Run], bool], what: str = "", within_s: float = WAIT_S
    ) -> Run:
        def look() -> Run | None:
            run = self.run(run_id)
            return run if condition(run) else None

        try:
            return wait_for(look, what or "what the test waits for", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.describe(run_id)}") from None

    def wait_state(self, run_id: str, *states: str, within_s: float = WAIT_S) -> Run:
        return self.wait(run_id, lambda run: run.state in states, " or ".join(states), within_s)

    def wait_steps(self, run_id: str, steps: int = 1, *, attempt: int = 1) -> Run:
        """Running, and so far at least, in this attempt or a later one."""
        return self.wait(
            run_id,
            lambda run: run.state == "running" and run.step >= steps and run.attempt >= attempt,
            f"step {steps} of attempt {attempt}",
        )

    def wait_sabotage(self) -> None:
        """A trainer has done what its worker's plan says."""
        wait_for(lambda: any(self.directory.glob("saboteur-*/done")), "the sabotage", WAIT_S)

    def wait_checkpoint(self, run_id: str, after_step: int = 0) -> Run:
        """A checkpoint behind `after_step` is recorded."""
        return self.wait(
            run_id,
            lambda run: run.checkpoint is not None and run.checkpoint["step"] > after_step,
            "a checkpoint",
        )

    def finish(self, run_id: str) -> Run:
        run = self.wait_state(run_id, "finished", "failed", "canceled", "paused")
        assert run.state == "finished", self.describe(run_id)
        return run

    def cancel(self, run_id: str) -> Run:
        self.ask(run_id, "cancel")
        return self.wait_state(run_id, "canceled")

    def cancel_all(self) -> None:
        """Leave nothing that the next test's worker would take."""
        with self.db.read() as s:
            left = s.exec(
                select(Run.id).where(col(Run.state).not_in(ENDED), col(Run.kind) == "training")
            ).all()
        for run_id in left:
            with suppress(httpx.HTTPStatusError):  # it may end just now
                self.ask(run_id, "cancel")
        for run_id in left:
            self.wait_state(run_id, *ENDED)

    def series(self, run_id: str) -> dict[str, Series]:
        """Every metric of the run, whole, in the order of the flushes: what a doubled write left shows twice."""
        query = select(MetricChunk).where(col(MetricChunk.run_id) == run_id).order_by(col(MetricChunk.seq))
        with self.db.read() as s:
            chunks = s.exec(query).all()
        parts: dict[str, list[Series]] = {}
        for chunk in chunks:
            parts.setdefault(chunk.metric, []).append(unpack(chunk))
        return {
            metric: Series(*map(np.concatenate, zip(*found, strict=True))) for metric, found in parts.items()
        }

    def files(self, run_id: str) -> list[str]:
        """Names in the run's folder, logs left out."""
        folder = self.directory / "runs" / run_id
        return (
            sorted(path.name for path in folder.glob("*") if path.suffix != ".log") if folder.exists() else []
        )

    def describe(self, run_id: str) -> str:
        """What a failed test should say of a run."""
        run, events = self.run(run_id), self.events(run_id)
        lines = [
            f"  {e.from_state} -> {e.to_state} (attempt {e.attempt}, {e.actor}): {e.reason}" for e in events
        ]
        told = f"run {run_id} is {run.state}, attempt {run.attempt}, step {run.step}, failures {run.failures}"
        return "\n".join([f"{told}, {run.phase!r}, {run.error or 'no error'}", *lines])


@contextmanager
def a_yard(directory: Path, *, database_url: str | None = None, **settings: str) -> Iterator[Yard]:
    """Redis, a migrated database (SQLite in `directory` without a URL) and a web process; afterwards nothing is left.

    `settings` without TRAINYARD_: LEASE_S="5". Raises: AssertionError, when a process outlives the yard.
    """
    with ExitStack() as stack:
        port = processes.free_port()
        broker = stack.enter_context(processes.redis_server(directory, port=port))
        more = SETTINGS | settings
        env = processes.trainyard_env(
            directory, broker_url=broker.broker_url, database_url=database_url, **more
        )
        processes.migrate(env)
        stack.callback(end_strays, directory)
        db = Database(with_driver(database_url or f"sqlite:///{directory / 'trainyard.db'}"))
        stack.callback(db.dispose)
        cleanup = stack.enter_context(ExitStack())
        stack.callback(lambda: thaw(marked(directory)))  # before they are told to stop
        web = cleanup.enter_context(processes.web_process(env, directory=directory))
        http = stack.enter_context(httpx.Client(base_url=web.url, trust_env=False, timeout=40))
        yield Yard(directory, env, db, cleanup, port, broker, web, http)


def unpack(chunk: MetricChunk) -> Series:
    """Written again and not taken from the app: this is what judges it."""
    steps = np.frombuffer(chunk.steps, "<i8") if chunk.steps else chunk.first_step + np.arange(chunk.count)
    values = np.frombuffer(chunk.vals, "<f4" if len(chunk.vals) == 4 * chunk.count else "<f8")
    return Series(steps, np.frombuffer(chunk.times, "<f8"), values.astype(np.float64))


# -- processes --------------------------------------------------------------------------------------------------------


def marked(directory: Path) -> Iterator[psutil.Process]:
    """The live processes whose environment names this data directory. Zombies have none."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(directory):
                yield process


def command_of(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def is_trainer(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name() == TRAINER or "worker.trainer" in command_of(process)
    return False


def output_of(process: psutil.Process) -> str:
    """Where its standard error goes; empty when it has ended."""
    with suppress(OSError):
        return os.readlink(f"/proc/{process.pid}/fd/2")
    return ""


def is_gone(process: psutil.Process) -> bool:
    """Ended, reaped or not: nobody may reap an orphan in a container."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def wait_gone(process: psutil.Process, within_s: float = GONE_S) -> None:
    wait_for(lambda: is_gone(process), f"the end of process {process.pid}", within_s)


def kill(process: Process) -> None:
    """SIGKILL to a part that we started, as a crash or the kernel's killer would; returns when it is dead."""
    os.kill(process.pid, signal.SIGKILL)
    process.popen.wait(20)


def freeze(found: Iterable[psutil.Process]) -> list[psutil.Process]:
    """SIGSTOP to each; what was stopped."""
    stopped = list(found)
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    return stopped


def thaw(found: Iterable[psutil.Process]) -> None:
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def pause(seconds: float) -> None:
    """Let time pass, where the passing of time is the fault."""
    threading.Event().wait(seconds)


def end_strays(directory: Path) -> None:
    """Raises: AssertionError when a process of the yard is still there; it is ended all the same."""
    try:
        wait_for(lambda: not any(marked(directory)), "the end of all processes", GONE_S)
    except AssertionError:
        strays = [(process, command_of(process)) for process in marked(directory)]
        for process, _ in strays:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise AssertionError(f"processes outlived their yard: {[command for _, command in strays]}") from None
