"""What nothing needs any more, by kind: found, and deleted if asked (SQL and files).

A run that is queued, running or paused is never touched: each change asks again, in its own transaction, whether it
has ended, and names there the files that go. An attempt that begins afterwards writes files of other names.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, update
from sqlmodel import Session, col, select

from app import artifacts
from app.artifacts import LOGITS, PREDICTIONS
from app.backup import STAGING
from app.db import Database, now
from app.models import ENDED, Artifact, MetricBatch, MetricChunk, Run
from app.settings import Settings

DAY_S = 86_400.0
YOUNG_S = 3_600.0  # a folder or file without a row that is younger may belong to a run that is just beginning
LEFT_S = DAY_S  # a temporary file that nobody has written to for so long belongs to a process that was killed
REPEATS_S = 31 * DAY_S  # after so long no client sends the same request again
AT_ONCE = 200
SURE_ORPHANS = 10  # more than these, and most of all: rather another database than rubbish


@dataclass(frozen=True)
class Limits:
    """How long things are kept after their run has ended, in days; None: for ever."""

    checkpoints_days: float | None = 7.0
    weights_days: float | None = None  # the last checkpoint of a run, too
    logs_days: float | None = 90.0
    predictions_days: float | None = 30.0
    logits_days: float | None = 90.0
    runs_days: float | None = None  # whole runs
    states: tuple[str, ...] = ENDED  # of those


@dataclass
class Share:
    """What one kind comes to."""

    what: str
    count: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.count += 1
        self.bytes += size


class Collector:
    """One walk over all kinds; with `really` it also deletes."""

    def __init__(self, db: Database, settings: Settings, limits: Limits, *, really: bool) -> None:
        self._db, self._settings, self._limits, self._really = db, settings, limits, really
        self.notes: list[str] = []
        with db.read() as s:
            self._at = now(s)

    def collect(self) -> list[Share]:
        """What is freed (or would be), by kind. Raises: TrainyardError, when the database does not answer."""
        kinds: tuple[tuple[str, Callable[[Share], None]], ...] = (
            ("whole runs", self._runs),
            ("checkpoints before the last", self._checkpoints),
            ("last checkpoints", self._weights),
            ("logs of attempts", self._logs),
            ("predictions but the best and the last", self._predictions),
            ("logits of validation sets", self._logits),
            ("folders of runs that are gone", self._orphans),
            ("validation images that no run shows", self._images),
            ("temporary files left behind", self._temporary),
            ("numbers of repeated requests", self._repeats),
        )
        shares = []
        for what, walk in kinds:
            share = Share(what)
            walk(share)
            shares.append(share)
        return shares

    # -- whole runs -------------------------------------------------------------------------------------------

    def _runs(self, share: Share) -> None:
        days, states = self._limits.runs_days, self._limits.states
        if days is None:
            return
        for run_id in self._ended(days, states):
            folder = self._settings.runs_dir / run_id
            if self._really:
                with self._db.begin() as s:
                    if not _delete_run(s, run_id, states, self._at - days * DAY_S):
                        continue
            with self._db.read() as s:
                stored = 0 if self._really else _stored_bytes(s, run_id)
            share.add(_size(folder) + stored)
            if self._really:
                shutil.rmtree(folder, ignore_errors=True)

    # -- files of ended runs ----------------------------------------------------------------------------------

    def _checkpoints(self, share: Share) -> None:
        if (days := self._limits.checkpoints_days) is None:
            return
        for run_id in self._ended(days):
            with self._look() as s:
                pointer = _pointer(s, run_id, lock=self._really)
                if pointer is None:
                    continue
                files = [
                    path
                    for path in self._files(run_id, "checkpoint-*.pt")
                    if path.name != pointer.get("file")
                ]
                if self._really and "previous" in pointer:
                    _set_pointer(s, run_id, {k: v for k, v in pointer.items() if k != "previous"})
            self._drop(share, files)

    def _weights(self, share: Share) -> None:
        if (days := self._limits.weights_days) is None:
            return
        for run_id in self._ended(days):
            with self._look() as s:
                if _pointer(s, run_id, lock=self._really) is None:
                    continue
                files = self._files(run_id, "checkpoint-*.pt")
                if self._really:
                    _set_pointer(s, run_id, None)
            self._drop(share, files)

    def _logs(self, share: Share) -> None:
        if (days := self._limits.logs_days) is not None:
            for run_id in self._ended(days):
                with self._look() as s:
                    ended = _pointer(s, run_id, lock=self._really) is not None
                    files = self._files(run_id, "attempt-*.log") if ended else []
                self._drop(share, files)

    def _look(self) -> AbstractContextManager[Session]:
        """A view of the database; one that nobody can change meanwhile where something will be deleted."""
        return self._db.begin() if self._really else self._db.read()

    def _files(self, run_id: str, pattern: str) -> list[Path]:
        return sorted((self._settings.runs_dir / run_id).glob(pattern))

    # -- rows of ended runs -----------------------------------------------------------------------------------

    def _predictions(self, share: Share) -> None:
        self._artifacts(share, PREDICTIONS, self._limits.predictions_days, keep_best_and_last=True)

    def _logits(self, share: Share) -> None:
        self._artifacts(share, LOGITS, self._limits.logits_days, keep_best_and_last=False)

    def _artifacts(self, share: Share, kind: str, days: float | None, *, keep_best_and_last: bool) -> None:
        if days is None:
            return
        for run_id in self._ended(days):
            with self._look() as s:
                gone = artifacts.list_artifacts(s, [run_id], kind)[run_id]
                if keep_best_and_last:
                    best = artifacts.best_steps(s, [run_id]).get(run_id)
                    gone = [one for one in gone[:-1] if one.step != best]
                if self._really and gone:
                    if _pointer(s, run_id, lock=True) is None:
                        continue
                    names = [one.name for one in gone]
                    s.execute(
                        delete(Artifact).where(col(Artifact.run_id) == run_id, col(Artifact.name).in_(names))
                    )
            for one in gone:
                share.add(one.size_bytes)

    def _repeats(self, share: Share) -> None:
        before = self._at - REPEATS_S
        ended = select(Run.id).where(col(Run.state).in_(ENDED))
        old_batches = (col(MetricBatch.at) < before, col(MetricBatch.run_id).in_(ended))
        old_keys = (
            col(Run.idempotency_key).is_not(None), col(Run.created_at) < before, col(Run.state).in_(ENDED)
        )  # fmt: skip
        with self._look() as s:
            for model, where in ((MetricBatch, old_batches), (Run, old_keys)):
                share.count += s.exec(select(func.count()).select_from(model).where(*where)).one()
            if self._really:
                s.execute(delete(MetricBatch).where(*old_batches))
                s.execute(update(Run).where(*old_keys).values(idempotency_key=None, request_digest=None))

    # -- what has no row --------------------------------------------------------------------------------------

    def _orphans(self, share: Share) -> None:
        folders = [
            path for path in _entries(self._settings.runs_dir) if path.is_dir() and not path.is_symlink()
        ]
        old = [path for path in folders if self._age_s(path) > YOUNG_S]
        with self._db.read() as s:  # after they were seen on the disk: rows come before folders
            orphans = [path for path in old if s.get(Run, path.name) is None]
        if len(orphans) > max(SURE_ORPHANS, len(folders) // 2):
            self.notes.append(
                f"{len(orphans)} of {len(folders)} folders in {self._settings.runs_dir} belong to no run of this "
                "database: is it the right one? They stay; delete them by hand if they are rubbish"
            )
            return
        for folder in orphans:
            share.add(_size(folder))
            if self._really:
                shutil.rmtree(folder, ignore_errors=True)

    def _images(self, share: Share) -> None:
        shown: set[str] = set()
        with self._db.read() as s:
            for resolved in s.exec(select(Run.resolved)):
                shown.add(str((resolved or {}).get("val_digest")))
        files = [path for path in _entries(self._settings.images_dir) if path.suffix == ".npy"]
        self._drop(share, [p for p in files if p.stem not in shown and not p.name.startswith(".")], YOUNG_S)

    def _temporary(self, share: Share) -> None:
        settings = self._settings
        for folder in settings.data_dir.glob(f"{STAGING}*"):
            if self._age_s(folder) > LEFT_S:
                share.add(_size(folder))
                if self._really:
                    shutil.rmtree(folder, ignore_errors=True)
        self._drop(share, [p for p in _entries(settings.images_dir) if p.name.startswith(".")], LEFT_S)
        for run_id in self._ended(LEFT_S / DAY_S):
            self._drop(share, self._files(run_id, ".checkpoint-*"), LEFT_S)

    # -- shared -----------------------------------------------------------------------------------------------

    def _ended(self, days: float, states: Sequence[str] = ENDED) -> Iterator[str]:
        """Ids of runs that ended so long ago, some at a time."""
        after = ""
        while True:
            with self._db.read() as s:
                query = (
                    select(Run.id)
                    .where(*_is_old(states, self._at - days * DAY_S), col(Run.id) > after)
                    .order_by(col(Run.id))
                    .limit(AT_ONCE)
                )
                ids = s.exec(query).all()
            yield from ids
            if len(ids) < AT_ONCE:
                return
            after = ids[-1]

    def _age_s(self, path: Path) -> float:
        try:
            return time.time() - path.lstat().st_mtime
        except OSError:
            return 0.0

    def _drop(self, share: Share, files: Sequence[Path], older_s: float = 0.0) -> None:
        for path in files:
            if older_s and self._age_s(path) < older_s:
                continue
            share.add(_size(path))
            if self._really:
                path.unlink(missing_ok=True)


def _is_old(states: Sequence[str], before: float) -> tuple[Any, ...]:
    return (col(Run.state).in_(states), func.coalesce(col(Run.ended_at), col(Run.updated_at)) < before)


def _delete_run(s: Session, run_id: str, states: Sequence[str], before: float) -> bool:
    gone = s.execute(delete(Run).where(col(Run.id) == run_id, *_is_old(states, before)))
    return bool(gone.rowcount)  # type: ignore[attr-defined]


def _pointer(s: Session, run_id: str, *, lock: bool) -> dict[str, Any] | None:
    """What the run's checkpoint is, {} for none; None when it has not ended (any more)."""
    query = select(Run.checkpoint).where(col(Run.id) == run_id, col(Run.state).in_(ENDED))
    row = s.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else dict(row[0] or {})


def _set_pointer(s: Session, run_id: str, pointer: dict[str, Any] | None) -> None:
    s.execute(
        update(Run)
        .where(col(Run.id) == run_id)
        .values(checkpoint=pointer or None, revision=col(Run.revision) + 1)
    )


def _stored_bytes(s: Session, run_id: str) -> int:
    """What its points and artifacts take in the database, about."""
    length = func.length
    points = s.exec(
        select(func.coalesce(func.sum(length(MetricChunk.times) + length(MetricChunk.vals)), 0)).where(
            col(MetricChunk.run_id) == run_id
        )
    ).one()
    files = s.exec(
        select(func.coalesce(func.sum(col(Artifact.size_bytes)), 0)).where(col(Artifact.run_id) == run_id)
    ).one()
    return int(points) + int(files)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count for nothing."""
    try:
        if not path.is_dir():
            return path.lstat().st_size
        return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_file())
    except OSError:
        return 0
