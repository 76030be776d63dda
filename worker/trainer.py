"""One attempt at one run: `python -m worker.trainer`, started by the supervisor before there is a run for it.

It imports torch and waits on standard input for its job: so a run starts at once. The end of standard input
means that the supervisor is gone, and so is the trainer then.

Exit codes: 0 the run's state is recorded; 75 the supervisor is gone; 76 another attempt has the run; anything else is a
crash, which the supervisor records.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from app import runs
from app.db import Database
from app.errors import Fenced
from app.models import CANCELED, FAILED, FINISHED, PAUSED
from app.settings import Settings, get_settings
from ml import checkpoint
from ml.data import load_dataset
from ml.events import Done, Evaluated, Evaluating, Event, Points, Prepared, Snapshot
from ml.spec import RunSpec
from ml.train import pick_device, train
from worker.job import Job
from worker.reporter import EXIT_FENCED, Reporter
from worker.trainer_exit import read_tail
from worker.validation import Validation

log = logging.getLogger(__name__)

EXIT_ORPHANED = 75
MID_EPOCH = 1.5  # an epoch whose end is near need not be interrupted: this many times checkpoint_s


class Trainer:
    """Drives `ml.train` for one job and records what comes of it."""

    def __init__(self, job: Job, settings: Settings, stop: threading.Event) -> None:
        self.job, self.settings, self.stop = job, settings, stop
        self.spec = RunSpec.model_validate(job.spec)
        self.dir = settings.runs_dir / job.run_id
        self.db = Database(settings.database_url, pool_size=1)
        self.snapshot_requested = threading.Event()
        self.pointer = job.checkpoint
        self.saved_at = time.monotonic()
        self.reporter = Reporter(
            self.db,
            job.run_id,
            job.attempt,
            job.seq,
            lease_s=settings.lease_s,
            flush_s=settings.flush_s,
            first_step=job.checkpoint["step"] if job.checkpoint else 0,
        )

    def run(self) -> None:
        """Train to the end, or until asked to stop; the run's new state is in the database afterwards."""
        self.reporter.start()
        try:
            for event in self.events():
                self.record(event)
                if isinstance(event, Snapshot) and self.wanted():
                    return self.let_go()
                self.ask_for_snapshot()
        except Interrupted:
            return self.let_go()
        except (ValueError, RuntimeError) as error:
            traceback.print_exc()
            return self.fail(error)
        self.reporter.close()
        return self.end(FINISHED, "trained to the end")

    def events(self) -> Iterator[Event]:
        self.reporter.set(phase="loading data", now=True)
        data = load_dataset(self.spec.dataset, self.settings.datasets_dir, self.loading)
        self.validation = Validation(data, self.spec.val_size, self.settings.images_dir)
        device = pick_device(self.spec.device, self.job.slot)
        resume = self.load_checkpoint()
        yield from train(
            self.spec, data, device=device, resume=resume, snapshot_requested=self.snapshot_requested
        )

    def loading(self, what: str, fraction: float) -> None:
        """Progress of a download. Raises: Interrupted, when the run is not wanted any more."""
        self.reporter.set(phase=f"{what} {fraction:.0%}"[:200])
        if self.wanted():
            raise Interrupted

    def record(self, event: Event) -> None:
        report = self.reporter
        match event:
            case Prepared():
                report.set(phase="training", resolved=event.resolved, step=event.start_step, now=True)
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
            case Snapshot():
                if (
                    self.wanted()
                    or time.monotonic() - self.saved_at > self.settings.checkpoint_s
                    or event.step == self.spec.total_steps
                ):
                    self.save(event)
            case Done():
                pass

    def wanted(self) -> bool:
        """Whether someone wants the run to stop where it is."""
        return self.stop.is_set() or self.reporter.flags.cancel or self.reporter.flags.pause

    def ask_for_snapshot(self) -> None:
        if self.wanted() or time.monotonic() - self.saved_at > MID_EPOCH * self.settings.checkpoint_s:
            self.snapshot_requested.set()

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save(self, event: Snapshot) -> None:
        """Write the file, then point to it in the flush that also holds every point before it."""
        name = f"checkpoint-{self.job.attempt}-{event.step}.pt"
        digest = checkpoint.save(self.dir / name, event.state)
        older = {k: v for k, v in (self.pointer or {}).items() if k != "previous"} or None
        if older is not None and older["file"] == name:
            older = None
        self.pointer = {
            "file": name,
            "sha256": digest,
            "step": event.step,
            "epoch": event.epoch,
            "previous": older,
        }
        self.saved_at = time.monotonic()
        kept = {name, older["file"] if older else name}
        self.reporter.set(checkpoint=self.pointer, after=lambda: self.drop_others(kept))

    def drop_others(self, kept: set[str]) -> None:
        for path in self.dir.glob("checkpoint-*.pt"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest state that can be read; the series are cut back to it when that is not the newest written."""
        pointer = self.job.checkpoint
        while pointer is not None:
            try:
                return checkpoint.load(self.dir / Path(pointer["file"]).name, pointer["sha256"])
            except checkpoint.CorruptCheckpoint as error:
                log.warning("%s", error)
                pointer = pointer.get("previous")
                self.pointer = pointer
                with self.db.begin() as s:
                    runs.rewind(s, self.job.run_id, self.job.attempt, pointer, self.job.worker, str(error))
        return None

    # -- endings --------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Stop where we are, as asked: canceled, paused, or back to the queue when the worker shuts down."""
        flags = self.reporter.close()
        if flags.cancel:
            return self.end(CANCELED, "canceled")
        if flags.pause:
            return self.end(PAUSED, "paused after a checkpoint")
        with self.db.begin() as s:
            runs.release_run(
                s,
                self.job.run_id,
                self.job.attempt,
                self.job.worker,
                "the worker shuts down; the run waits for another",
            )
        return None

    def fail(self, error: Exception) -> None:
        self.reporter.close()
        reason = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return self.end(FAILED, reason, tail=read_tail(Path(self.job.log)))

    def end(self, state: str, reason: str, tail: str | None = None) -> None:
        with self.db.begin() as s:
            runs.end_run(s, self.job.run_id, self.job.attempt, state, self.job.worker, reason, tail=tail)


class Interrupted(ValueError):
    """Someone stopped the run before it trained."""


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
    """End the process when standard input ends. `os.read`, as a buffered read aborts the interpreter at its exit."""
    while os.read(0, 1):
        pass
    os._exit(EXIT_ORPHANED)


def send_output_to(path: Path) -> None:
    """Everything that is printed from here on, by native code too, goes to the run's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def main() -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which then stops us
    settings = get_settings()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    job = read_job()
    if job is None:
        return EXIT_ORPHANED
    send_output_to(Path(job.log))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    threading.Thread(target=watch_supervisor, name="watchdog", daemon=True).start()
    try:
        Trainer(job, settings, stop).run()
    except Fenced as error:
        log.warning("%s", error.message)
        return EXIT_FENCED
    return 0


if __name__ == "__main__":
    sys.exit(main())
