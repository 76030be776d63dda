"""The checkpoints of one attempt: written while there is room, two kept, found again by the next attempt.

A disk that is full ends no training. It goes on without a checkpoint, says so once, and writes the next one that there
is room for; only a step that nothing follows has to be saved.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.disk import describe_error, describe_shortage
from app.settings import Settings
from ml import checkpoint
from ml.events import Snapshot
from worker.job import Job
from worker.reporter import Reporter

log = logging.getLogger(__name__)

MID_EPOCH = 1.5  # an epoch whose end is near need not be interrupted: this many times checkpoint_s
PATIENCE_S = 5.0  # so long may the last one wait for room
RETRY_S = 0.5

Rewind = Callable[[dict[str, Any] | None, str], None]


class Checkpoints:
    """Of one job. `pointer` is what the run's row holds, or will with the next flush.

    `unsaved` is why the newest could not be written.
    """

    def __init__(self, job: Job, settings: Settings, reporter: Reporter) -> None:
        self._job, self._settings, self._reporter = job, settings, reporter
        self.folder = settings.runs_dir / job.run_id
        self.pointer = job.checkpoint
        self.unsaved: str | None = None
        self._size_bytes = 0
        self._tried_at = time.monotonic()

    def is_due(self, *, mid_epoch: bool = False) -> bool:
        """Whether it is time for the next."""
        wait_s = self._settings.checkpoint_s * (MID_EPOCH if mid_epoch else 1)
        return time.monotonic() - self._tried_at > wait_s

    def save(self, event: Snapshot, *, last: bool) -> None:
        """Write the file, then point to it in the flush that also holds every point before it.

        Without room the older ones stay and `unsaved` says why. The `last` one may use what should stay free, and waits
        for room a little; as long as the database waits for it too, nobody could be told that it failed.
        """
        began = time.monotonic()
        while True:
            why = self._try(event, last=last)
            self._tried_at = time.monotonic()
            if why is None or not last:
                break
            if self._tried_at - began > PATIENCE_S and not self._reporter.is_stuck():
                break
            self._reporter.set(phase="waiting for disk space for its last checkpoint")
            time.sleep(RETRY_S)
        if not (last or self._reporter.flags.cancel):
            self._tell(event.step, why)
        self.unsaved = why

    def _try(self, event: Snapshot, *, last: bool) -> str | None:
        """None when it is written; otherwise why not."""
        kept_mb = 0 if last else self._settings.min_free_mb
        shortage = describe_shortage(self.folder, kept_mb, self._size_bytes)
        if shortage is not None:
            return shortage
        name = f"checkpoint-{self._job.attempt}-{event.step}.pt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = checkpoint.save(self.folder / name, event.state)
            self._size_bytes = (self.folder / name).stat().st_size
        except OSError as error:
            return describe_error(error)
        self._point_to(name, digest, event)
        return None

    def _point_to(self, name: str, digest: str, event: Snapshot) -> None:
        older = {k: v for k, v in (self.pointer or {}).items() if k != "previous"} or None
        if older is not None and older["file"] == name:
            older = None
        self.pointer = {
            "file": name,
            "sha256": digest,
            "step": event.step,
            "epoch": event.epoch,
            "evaluated": event.state["position"] == 0,  # or the epoch's evaluation is still to come
            "previous": older,
        }
        # Listed now: once the flush is through, the next one may be there already, or half written.
        stale = self._find_others({name, older["file"] if older else name})
        self._reporter.set(checkpoint=self.pointer, after=lambda: self._drop(stale))

    def _tell(self, step: int, why: str | None) -> None:
        """Once when the trouble begins, once when it is over."""
        if why is not None and self.unsaved is None:
            log.warning("no checkpoint at step %d: %s", step, why)
            note = f"training goes on without a checkpoint at step {step:,}: {why}"
            self._reporter.set(note=note, now=True)
        elif why is None and self.unsaved is not None:
            self._reporter.set(note=f"checkpoints are written again, the first at step {step:,}", now=True)

    def _find_others(self, kept: set[str]) -> list[Path]:
        """Those before, and what a killed attempt left half written."""
        found = (*self.folder.glob("checkpoint-*.pt"), *self.folder.glob(".checkpoint-*"))
        return [path for path in found if path.name not in kept]

    def _drop(self, paths: list[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be removed: %s", path.name, error.strerror)

    def load(self, rewind: Rewind) -> dict[str, Any] | None:
        """The newest state that can be read; for an older one `rewind(pointer, reason)` cuts the run back to it."""
        while self.pointer is not None:
            try:
                return checkpoint.load(self.folder / Path(self.pointer["file"]).name, self.pointer["sha256"])
            except checkpoint.CorruptCheckpoint as error:
                log.warning("%s", error)
                self.pointer = self.pointer.get("previous")
                rewind(self.pointer, str(error))
        return None
