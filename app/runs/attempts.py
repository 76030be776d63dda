"""What a worker does with a run while it has it: claim it, report, go back to an older checkpoint.

Every write names the attempt, the fencing token: what a superseded attempt writes finds no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, func, text, update
from sqlmodel import Session, col, select

from app import artifacts, series
from app.artifacts import NewArtifact
from app.db import now
from app.errors import Fenced
from app.models import QUEUED, RUNNING, Run
from app.runs.reading import step_kept
from app.runs.transition import remark, touched, transition


@dataclass(frozen=True)
class Flags:
    """What the reply to a flush asks of the trainer."""

    cancel: bool
    pause: bool


def claim_run(s: Session, run_id: str, worker: str, lease_s: float) -> Run | None:
    """The run, now this worker's next attempt, its series cut behind the checkpoint; None when it is not to be had."""
    at = now(s)
    waits = (col(Run.kind) == "training", col(Run.cancel_requested).is_(False), col(Run.not_before) <= at)
    query = select(Run).where(col(Run.id) == run_id, col(Run.state) == QUEUED, *waits)
    found = s.exec(query.with_for_update().execution_options(populate_existing=True)).first()
    if found is None:
        return None
    kept, found_at = step_kept(found), found.checkpoint
    reason = f"claimed by {worker}" + (f"; resumes from step {kept:,}" if kept else "")
    run = transition(
        s, run_id, QUEUED, RUNNING, worker, reason, *waits,
        attempt=col(Run.attempt) + 1,
        worker=worker,
        phase="starting",
        lease_until=at + lease_s,
        started_at=func.coalesce(col(Run.started_at), at),
        ended_at=None,
        error=None,
        error_tail=None,
        step=kept,
        epoch=int(found.checkpoint["epoch"]) if found.checkpoint else 0,
    )  # fmt: skip
    if run is not None:
        _forget_behind(s, run_id, found_at)
    return run


def _forget_behind(s: Session, run_id: str, pointer: dict[str, Any] | None) -> None:
    """Forget what an attempt that goes on from this checkpoint will measure again.

    One written before or within an epoch's evaluation has its step trained, and the evaluation still to come.
    """
    step = int(pointer["step"]) if pointer else 0
    series.truncate_after(s, run_id, step)
    artifacts.truncate_after(s, run_id, step)
    if pointer and not pointer.get("evaluated", True):
        series.truncate_after(s, run_id, step - 1, of="val/")
        artifacts.truncate_after(s, run_id, step - 1)


def report(
    s: Session,
    run_id: str,
    attempt: int,
    seq: int,
    points: series.Points,
    *,
    lease_s: float,
    step: int | None = None,
    epoch: int | None = None,
    phase: str | None = None,
    step_rate: float | None = None,
    checkpoint: dict[str, Any] | None = None,
    resolved: dict[str, Any] | None = None,
    files: Sequence[NewArtifact] = (),
    note: str | None = None,
) -> Flags:
    """One flush: fence check, lease renewal, chunks, artifacts (`files`), progress and checkpoint pointer, in the
    caller's transaction. `note` is for people: a line of the run's events.

    `seq` counts the flushes of a run. A flush whose commit was in doubt is sent again with the same number and then
    changes nothing but the lease.

    Raises: Fenced when another attempt has taken over or the run has ended; the caller must stop writing.
    """
    connection = s.connection()
    at = now(s)
    given = {
        "run_id": run_id, "attempt": attempt, "seq": seq, "before": seq - 1, "at": at, "lease_until": at + lease_s,
        "step": step, "epoch": epoch, "phase": phase, "step_rate": step_rate,
    }  # fmt: skip
    flags = connection.execute(_REPORT, given).one_or_none()
    is_new = flags is not None
    if flags is None:
        flags = connection.execute(_REPORT, {**given, "before": seq}).one_or_none()
    if flags is None:
        raise Fenced(f"attempt {attempt} of run {run_id} was superseded")
    if is_new:
        series.append_chunks(s, run_id, seq, points)
        artifacts.store(s, run_id, files, at)
        if note is not None:
            worker = s.exec(select(Run.worker).where(col(Run.id) == run_id)).one() or "worker"
            remark(s, run_id, attempt, worker, note)
    documents = {"checkpoint": checkpoint, "resolved": resolved}
    changed: dict[str, Any] = {name: document for name, document in documents.items() if document is not None}
    if checkpoint is not None:
        changed["failures"] = 0  # it gets on: deaths far apart are no crash loop
    if changed:
        s.execute(update(Run).where(col(Run.id) == run_id).values(changed))
    return Flags(*flags)


# As text, and not built anew each time: a trainer runs this several times a second beside the training loop.
_REPORT = text("""
UPDATE run SET lease_until = :lease_until, updated_at = :at, revision = revision + 1, seq = :seq,
  step = coalesce(:step, step), epoch = coalesce(:epoch, epoch), phase = coalesce(:phase, phase),
  step_rate = coalesce(:step_rate, step_rate)
WHERE id = :run_id AND attempt = :attempt AND state = 'running' AND seq = :before
RETURNING cancel_requested, pause_requested
""").columns(cancel_requested=Boolean, pause_requested=Boolean)


def rewind(
    s: Session, run_id: str, attempt: int, pointer: dict[str, Any] | None, actor: str, reason: str
) -> None:
    """Go back to an older checkpoint (None: to the start), because the newest cannot be read.

    Raises: Fenced when the attempt does not hold the run any more.
    """
    at = now(s)
    step, epoch = (int(pointer["step"]), int(pointer["epoch"])) if pointer else (0, 0)
    held = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.attempt) == attempt, col(Run.state) == RUNNING)
        .values(checkpoint=pointer, step=step, epoch=epoch, **touched(at))
    )
    if not held.rowcount:  # type: ignore[attr-defined]
        raise Fenced(f"attempt {attempt} of run {run_id} was superseded")
    _forget_behind(s, run_id, pointer)
    reason = f"{reason}; goes on from step {step:,}" if step else f"{reason}; starts again from the beginning"
    remark(s, run_id, attempt, actor, reason)


def say_waiting(s: Session, run_id: str, why: str) -> bool:
    """Tell people why a queued run waits, empty when it does not wait for that any more. Whether it is still queued."""
    waits = (col(Run.id) == run_id, col(Run.state) == QUEUED)
    s.execute(
        update(Run).where(*waits, col(Run.phase) != why[:200]).values(phase=why[:200], **touched(now(s)))
    )
    return s.exec(select(Run.id).where(*waits)).first() is not None


def renew_lease(s: Session, run_id: str, attempt: int, lease_s: float) -> None:
    """Keep a run while its trainer is still starting."""
    s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.attempt) == attempt, col(Run.state) == RUNNING)
        .values(lease_until=now(s) + lease_s)
    )
