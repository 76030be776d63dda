"""Writes what a trainer measures, from a thread of its own: one transaction a flush, nothing ever dropped.

Training goes on while the database is busy or away; it waits only when the buffer is full, or when nothing could be
written for half a lease and another worker may soon take the run.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session

from app import runs, series
from app.artifacts import NewArtifact
from app.db import Database
from app.errors import Fenced
from app.runs import Flags
from worker.writes import insist

log = logging.getLogger(__name__)

EXIT_FENCED = 76
EXIT_BROKEN = 70
MAX_POINTS = 50_000
HEARTBEAT_S = 1.0
STUCK_S = 3.0


@dataclass
class Column:
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def block(self) -> series.Block:
        return series.make_block(self.steps, self.times, self.values)


class Reporter:
    """The trainer's only way to the database while it trains. Start it, `add` and `set`, then `close` it."""

    def __init__(
        self,
        db: Database,
        run_id: str,
        attempt: int,
        seq: int,
        *,
        lease_s: float,
        flush_s: float,
        first_step: int = 0,
    ) -> None:
        self._db, self._run_id, self._attempt, self._seq = db, run_id, attempt, seq
        self._lease_s, self._flush_s = lease_s, flush_s
        self._columns: dict[str, Column] = {}
        self._buffered = 0
        self._fields: dict[str, Any] = {}
        self._files: list[NewArtifact] = []
        self._after: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._urgent = self._closing = False
        self._written_at = time.monotonic()
        self._pace = Pace(first_step)
        self.flags = Flags(cancel=False, pause=False)
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(
        self,
        steps: Sequence[int],
        times: Sequence[float],
        values: Mapping[str, Sequence[float]],
        *files: NewArtifact,
    ) -> None:
        """Take points of several series at the same steps, and files that belong to them: one flush has it all.

        Waits while the buffer is full or the database has been away for too long.
        """
        with self._changed:
            self._changed.wait_for(self._has_room)
            for metric, numbers in values.items():
                column = self._columns.setdefault(metric, Column())
                column.steps.extend(steps)
                column.times.extend(times)
                column.values.extend(numbers)
                self._buffered += len(steps)
            self._files.extend(files)

    def _has_room(self) -> bool:
        return self._buffered < MAX_POINTS and time.monotonic() - self._written_at < max(self._lease_s / 2, 2)

    def set(self, *, now: bool = False, after: Callable[[], None] | None = None, **fields: Any) -> None:
        """Fields of the run's row for the next flush; `now` sends it at once; `after` runs once it is committed."""
        with self._changed:
            self._fields.update(fields)
            if after is not None:
                self._after.append(after)
            if now:
                self._urgent = True
                self._changed.notify_all()

    def is_stuck(self) -> bool:
        """Whether the database has taken nothing for longer than a flush should need."""
        return time.monotonic() - self._written_at > STUCK_S

    def close(self) -> Flags:
        """Write everything that is left, and the last flags."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        return self.flags

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._flush_until_closed()
        except BaseException:
            log.exception("the points cannot be written; stopping")
            os._exit(EXIT_BROKEN)  # the supervisor records it at once; a trainer that nobody hears would hang

    def _flush_until_closed(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._closing, timeout=self._flush_s)
                closing, self._urgent = self._closing, False
                idle = not (self._columns or self._fields)
                if idle and not closing and time.monotonic() - self._written_at < HEARTBEAT_S:
                    continue
                columns, self._columns = self._columns, {}
                fields, self._fields = self._fields, {}
                files, self._files = self._files, []
                after, self._after = self._after, []
            self._write({metric: column.block() for metric, column in columns.items()}, fields, files)
            for done in after:
                done()

    def _write(self, points: series.Points, fields: dict[str, Any], files: list[NewArtifact]) -> None:
        """Flush until it is committed. Ends the process when the run is another attempt's."""
        self._seq += 1
        if "step" in fields:
            fields["step_rate"] = self._pace.rate(fields["step"])
        # Files that no pointer names any more are removed after it: the pointer must not be lost to a power cut.
        durable = "checkpoint" in fields
        try:
            self.flags = insist(
                self._db,
                f"flush {self._seq}",
                self._lease_s,
                lambda s: self._flush(s, points, fields, files),
                durable=durable,
            )
        except Fenced as error:
            log.warning("%s; stopping", error.message)
            os._exit(EXIT_FENCED)
        with self._changed:
            self._buffered -= sum(len(block.steps) for block in points.values())
            self._written_at = time.monotonic()
            self._changed.notify_all()

    def _flush(
        self, s: Session, points: series.Points, fields: dict[str, Any], files: list[NewArtifact]
    ) -> Flags:
        return runs.report(
            s, self._run_id, self._attempt, self._seq, points, lease_s=self._lease_s, files=files, **fields
        )


class Pace:
    """Steps per second over the last half minute, for the time that is left."""

    def __init__(self, first_step: int) -> None:
        self._marks = [(time.monotonic(), first_step)]

    def rate(self, step: int) -> float | None:
        at = time.monotonic()
        self._marks.append((at, step))
        while len(self._marks) > 2 and at - self._marks[1][0] > 30:
            self._marks.pop(0)
        since, first = self._marks[0]
        return (step - first) / (at - since) if step > first and at > since else None
