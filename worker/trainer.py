"""One attempt at one run: forked from `worker.forkserver`, or `python -m worker.trainer`, before there is a run for it.

It has imported torch and waits on standard input for its job: so a run starts at once. The end of standard input
means that the supervisor is gone, and so is the trainer then.

Exit codes: 0 the run's state is recorded; 75 the supervisor is gone; 76 another attempt has the run; 77 it stood still;
anything else is a crash, which the supervisor records.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from sqlmodel import Session

from app import logs, runs, workers
from app.db import Database
from app.disk import FULL, describe_error
from app.errors import Fenced, TrainyardError
from app.models import CANCELED, FAILED, FINISHED, PAUSED
from app.settings import Settings, get_settings
from ml.checkpoint import CorruptCheckpoint
from ml.crew import ALONE, Crew
from ml.data import Split, load_dataset, split_for
from ml.datasets import DATASETS
from ml.events import Done, Evaluated, Evaluating, Event, Note, Points, Prepared, Snapshot
from ml.memory import explain
from ml.spec import RunSpec
from ml.train import pick_device, train
from ml.weights import load_weights
from worker.checkpoints import Checkpoints
from worker.job import Job
from worker.reporter import EXIT_FENCED, Reporter
from worker.stall import Stall
from worker.trainer_exit import EXIT_CRASHED, read_tail
from worker.validation import Validation
from worker.writes import insist

log = logging.getLogger("worker.trainer")

EXIT_ORPHANED = 75


class Trainer:
    """Drives `ml.train` for one job and records what comes of it."""

    def __init__(self, job: Job, settings: Settings, stop: threading.Event, crew: Crew = ALONE) -> None:
        self.job, self.settings, self.stop, self.crew = job, settings, stop, crew
        self.broken_off = False  # in the middle of a step, where other ranks cannot be told
        self.spec: RunSpec
        DATASETS.look_in(settings.datasets_dir)
        self.db = Database(settings.database_url, pool_size=1)
        self.snapshot_requested = threading.Event()
        self.reporter = Reporter(
            self.db,
            job.run_id,
            job.attempt,
            job.seq,
            lease_s=settings.lease_s,
            flush_s=settings.flush_s,
            first_step=job.checkpoint["step"] if job.checkpoint else 0,
        )
        self.checkpoints = Checkpoints(job, settings, self.reporter)
        self.stall = Stall(self.reporter, settings.stall_s)
        self.reason = "trained to the end"

    def run(self) -> None:
        """Train to the end, or until asked to stop; the run's new state is in the database afterwards."""
        self.reporter.start()
        self.stall.start()
        try:
            for event in self.events():
                self.stall.beat()
                if isinstance(event, Snapshot):
                    if self.keep(event):
                        return self.let_go()
                else:
                    self.record(event)
                self.ask_for_snapshot()
        except Interrupted:
            return self.let_go()
        except OSError as error:
            if error.errno not in FULL:
                raise
            log.exception("the disk is full")
            return self.end_full(describe_error(error))
        except Exception as error:
            if not comes_again(error, self.crew):
                raise
            log.exception("the training failed")
            self.broken_off = True
            return self.fail(error)
        self.reporter.close()
        if self.checkpoints.unsaved is not None:
            return self.end_full(f"the last checkpoint could not be written: {self.checkpoints.unsaved}")
        return self.end(FINISHED, self.reason)

    def events(self) -> Iterator[Event]:
        self.reporter.set(phase="loading data", now=True)
        data = load_dataset(self.job.spec["dataset"], self.settings.datasets_dir, self.loading)
        # After the data: one that is not here says so better.
        self.spec = RunSpec.read_stored(self.job.spec)
        data = split_for(self.spec, data)
        self.validation = Validation(data, self.spec.val_size, self.settings.images_dir)
        device = pick_place(self.job, self.crew)
        resume = self.checkpoints.load(self.rewind)
        weights = None
        if resume is None:
            weights = load_weights(self.spec.model, self.settings.datasets_dir, self.loading)
        self.crew.share_text(json.dumps(self.checkpoints.pointer))
        with explaining(self.spec, data, device):
            yield from train(
                self.spec,
                data,
                device=device,
                resume=resume,
                weights=weights,
                snapshot_requested=self.snapshot_requested,
                crew=self.crew,
            )

    def loading(self, what: str, fraction: float) -> None:
        """Progress of a download. Raises: Interrupted, when the run is not wanted any more."""
        self.stall.beat()
        self.reporter.set(phase=f"{what} {fraction:.0%}"[:200])
        if self.wanted():
            raise Interrupted

    def record(self, event: Event) -> None:
        report = self.reporter
        match event:
            case Prepared():
                report.set(phase="training", resolved=event.resolved, step=event.start_step, now=True)
                if event.note is not None:
                    report.set(note=event.note)
            case Points():
                report.add(event.step, event.time, event.values)
                first = event.step[0] == 1
                report.set(step=event.step[-1], phase="training", now=first)
            case Evaluating():
                report.set(phase=f"evaluating epoch {event.epoch}")
            case Evaluated():
                values = {"val/loss": [event.loss], "val/accuracy": [event.accuracy]}
                report.add([event.step], [event.time], values, *self.validation.files(event))
                report.set(step=event.step, epoch=event.epoch)
                if (note := self.validation.left_out(event)) is not None:
                    report.set(note=note, now=True)
            case Note():
                report.set(note=event.text, now=True)
            case Done():
                self.reason = event.reason
            case _:
                pass

    def keep(self, event: Snapshot) -> bool:
        """Write it if it is time to, and whether the run ends here, as someone wants it to."""
        wanted = self.wanted()
        if wanted or event.is_last or self.checkpoints.is_due():
            canceled = self.reporter.flags.cancel
            self.checkpoints.save(event, last=event.is_last or (wanted and not canceled))
        return wanted

    def wanted(self) -> bool:
        """Whether someone wants the run to stop where it is."""
        return self.stop.is_set() or self.reporter.flags.cancel or self.reporter.flags.pause

    def ask_for_snapshot(self) -> None:
        if self.wanted() or self.checkpoints.is_due(mid_epoch=True):
            self.snapshot_requested.set()

    # -- endings --------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Stop where we are, as asked: canceled, paused, or back to the queue when the worker shuts down."""
        flags = self.reporter.close()
        if flags.cancel:
            return self.end(CANCELED, "canceled")
        unsaved = self.checkpoints.unsaved
        if flags.pause and unsaved is not None:
            return self.end_full(f"the last checkpoint could not be written: {unsaved}")
        if flags.pause:
            return self.end(PAUSED, "paused after a checkpoint")
        self.insist("the release", lambda s: self.release(s, unsaved))
        return None

    def release(self, s: Session, unsaved: str | None) -> None:
        reason = workers.describe_leaving(s, self.job.worker)
        if unsaved is not None:
            reason = f"{reason} without a checkpoint: {unsaved}"
        runs.release_run(s, self.job.run_id, self.job.attempt, self.job.worker, reason)

    def end_full(self, why: str) -> None:
        """For want of disk space. What was trained since the last checkpoint can only be had again from there."""
        self.reporter.close()
        return self.end(FAILED, f"{why}, then resume")

    def fail(self, error: Exception) -> None:
        self.reporter.close()
        return self.end(FAILED, in_words(error), tail=read_tail(Path(self.job.log)))

    def end(self, state: str, reason: str, tail: str | None = None) -> None:
        run_id, attempt, worker = self.job.run_id, self.job.attempt, self.job.worker
        self.insist("the end", lambda s: runs.end_run(s, run_id, attempt, state, worker, reason, tail=tail))

    def rewind(self, pointer: dict[str, Any] | None, reason: str) -> None:
        run_id, attempt, worker = self.job.run_id, self.job.attempt, self.job.worker
        self.insist("going back", lambda s: runs.rewind(s, run_id, attempt, pointer, worker, reason))

    def insist(self, what: str, change: Callable[[Session], object]) -> None:
        """A write that must not be lost. Raises: Fenced."""
        insist(self.db, what, self.settings.lease_s, change)


class Interrupted(ValueError):
    """Someone stopped the run before it trained."""


def comes_again(error: BaseException, crew: Crew) -> bool:
    """Whether the next attempt would end in the same way, as the same spec does the same.

    What lies with the machine may go better: memory, the disk, a GPU that reports an error (ECC, Xid; after one of
    those a process can do nothing with it any more). So may a RuntimeError among several ranks, of which another has
    died, most likely.
    """
    if isinstance(error, MemoryError | OSError | TrainyardError | CorruptCheckpoint | torch.AcceleratorError):
        return False
    return isinstance(error, Exception) and not (isinstance(error, RuntimeError) and crew.size > 1)


def in_words(error: Exception) -> str:
    """Why a run failed: ours are sentences, those of libraries need their kind."""
    return f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


@contextmanager
def explaining(spec: RunSpec, data: Split, device: torch.device) -> Iterator[None]:
    """Raises ml.memory.OutOfMemory, which names a remedy, where memory runs out within."""
    try:
        yield
    except RuntimeError as error:
        shortage = explain(error, spec, data, device)
        if shortage is None:
            raise
        raise shortage from error


def print_crash(error: BaseException) -> None:
    """To the run's log: the last line says what it was, also of an error that goes on with advice for many lines."""
    traceback.print_exc()
    first, _, more = str(error).partition("\n")
    if more:
        print(f"{type(error).__name__}: {first}", file=sys.stderr)


def pick_place(job: Job, crew: Crew) -> torch.device:
    """The device of this process: its slot's GPU where it has one of its own; ranks beyond that train on the CPU.

    Raises: ValueError, where a GPU was asked for and is not there.
    """
    if crew.size > len(job.slots):
        return torch.device("cpu")
    return pick_device(job.spec.get("device", "auto"), job.slots[crew.rank])


def read_job() -> Job | None:
    """The job, one line; None when the supervisor has gone before it had one."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65_536)
        if not piece:
            return None
        line += piece
    return Job.from_line(line)


def watch_supervisor() -> None:
    """End the process when standard input ends, and with it ranks that may only just be starting.

    `os.read`, as a buffered read aborts the interpreter at its exit.
    """
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_ORPHANED)


def send_output_to(path: Path) -> None:
    """Everything that is printed from here on, by native code too, goes to the run's log."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:  # a full disk, most likely: a training needs no log
        log.warning("%s cannot be written: %s", path.name, error.strerror)
        handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def main() -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which then stops us
    settings = get_settings()
    logs.configure(settings)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    job = read_job()
    if job is None:
        return EXIT_ORPHANED
    send_output_to(Path(job.log))
    logs.bind_process(run=job.run_id, attempt=job.attempt, worker=job.worker)
    log.info("the attempt begins: %s on %s", job.spec["model"], job.spec["dataset"])
    threading.Thread(target=watch_supervisor, name="watchdog", daemon=True).start()
    try:
        if job.spec.get("devices", 1) > 1:
            from worker.ranks import launch  # which needs this module

            return launch(job)
        Trainer(job, settings, stop).run()
    except Fenced as error:
        log.warning("%s", error.message)
        return EXIT_FENCED
    except BaseException as error:  # noqa: BLE001  # the supervisor is told by the exit code and the log
        print_crash(error)
        return EXIT_CRASHED
    return 0


def leave(code: int) -> NoReturn:
    """End the process now. Python's own way out takes a second with torch loaded, and hangs when memory has run out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
