"""What a worker does with a run: claim it, report, go back to an older checkpoint, end it or give it back.

Every write names the attempt, the fencing token: what a superseded attempt writes finds no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, ColumnElement, func, text, update
from sqlmodel import Session, col

from app import artifacts, series
from app.artifacts import NewArtifact
from app.db import now
from app.errors import Fenced
from app.models import CANCELED, FAILED, PAUSED, QUEUED, RUNNING, Run
from app.runs.reading import get_run
from app.runs.transition import record, touched, transition

TAIL_BYTES = 20_000


@dataclass(frozen=True)
class Flags:
    """What the reply to a flush asks of the trainer."""

    cancel: bool
    pause: bool


def claim_run(s: Session, run_id: str, worker: str, lease_s: float) -> Run | None:
    """The run, now this worker's next attempt, its series cut behind the checkpoint; None when it is not to be had."""
    at = now(s)
    run: Run | None = s.execute(
        update(Run)
        .where(
            col(Run.id) == run_id,
            col(Run.state) == QUEUED,
            col(Run.kind) == "training",
            col(Run.cancel_requested).is_(False),
            col(Run.not_before) <= at,
        )
        .values(
            state=RUNNING,
            attempt=col(Run.attempt) + 1,
            worker=worker,
            phase="starting",
            lease_until=at + lease_s,
            started_at=func.coalesce(col(Run.started_at), at),
            ended_at=None,
            error=None,
            error_tail=None,
            **touched(at),
        )
        .returning(Run)
    ).scalar_one_or_none()
    if run is None:
        return None
    kept = int(run.checkpoint["step"]) if run.checkpoint else 0
    series.truncate_after(s, run_id, kept)
    artifacts.truncate_after(s, run_id, kept)
    run.step, run.epoch = kept, int(run.checkpoint["epoch"]) if run.checkpoint else 0
    why = f"claimed by {worker}" + (f"; resumes from step {kept:,}" if kept else "")
    record(s, run_id, at, QUEUED, RUNNING, worker, why, run.attempt)
    return run


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
) -> Flags:
    """One flush: fence check, lease renewal, chunks, artifacts (`files`), progress and checkpoint pointer, in the
    caller's transaction.

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
    series.truncate_after(s, run_id, step)
    artifacts.truncate_after(s, run_id, step)
    record(s, run_id, at, RUNNING, RUNNING, actor, f"{reason}; goes on from step {step:,}", attempt)


def renew_lease(s: Session, run_id: str, attempt: int, lease_s: float) -> None:
    """Keep a run while its trainer is still starting."""
    s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.attempt) == attempt, col(Run.state) == RUNNING)
        .values(lease_until=now(s) + lease_s)
    )


def end_run(
    s: Session, run_id: str, attempt: int, to_state: str, actor: str, reason: str, *, tail: str | None = None
) -> None:
    """running -> finished, failed, canceled or paused, by the attempt that holds the run.

    Raises: Fenced when it does not hold it any more.
    """
    mine = col(Run.attempt) == attempt
    values: dict[str, Any] = {"error_tail": _clip(tail)}
    if to_state == FAILED:
        values["error"] = reason
    if to_state == PAUSED and transition(
        s, run_id, RUNNING, CANCELED, actor, "canceled", mine, col(Run.cancel_requested).is_(True)
    ):
        return  # cancel was asked for after pause
    if not transition(s, run_id, RUNNING, to_state, actor, reason, mine, **values):
        raise Fenced(f"attempt {attempt} of run {run_id} does not hold it any more")


def release_run(s: Session, run_id: str, attempt: int, actor: str, reason: str) -> bool:
    """running -> queued by a worker that shuts down in good order; not counted as a failure.

    Canceled or paused instead where that was asked for. False when the attempt does not hold the run any more.
    """
    run = get_run(s, run_id, lock=True)
    mine = col(Run.attempt) == attempt
    asked = _asked_for(run)
    if asked is not None:
        return transition(s, run_id, RUNNING, asked, actor, asked, mine)
    return transition(s, run_id, RUNNING, QUEUED, actor, reason, mine, queued_at=now(s), published_at=None)


def _asked_for(run: Run) -> str | None:
    """The state that a person wants a running run to get."""
    return CANCELED if run.cancel_requested else PAUSED if run.pause_requested else None


def give_back(
    s: Session,
    run: Run,
    actor: str,
    reason: str,
    *guards: ColumnElement[bool],
    max_failures: int,
    tail: str | None = None,
) -> str | None:
    """After an attempt died: running -> queued, failed, or what was asked for. The state it got; None when fenced.

    `run` was read with a lock in this transaction, so that nothing can be asked of it meanwhile.
    """
    failures = run.failures + 1
    at = now(s)
    values: dict[str, Any] = {"failures": failures, "error_tail": _clip(tail)}
    asked = _asked_for(run)
    if asked is not None:
        state, values = asked, {}
    elif failures >= max_failures:
        state = FAILED
        reason = f"{reason}; gave up after {failures} failed attempts"
        values["error"] = reason
    else:
        state = QUEUED
        values |= {"queued_at": at, "published_at": None, "not_before": at + float(5 ** (failures - 1))}
    mine = (col(Run.attempt) == run.attempt, *guards)
    return state if transition(s, run.id, RUNNING, state, actor, reason, *mine, **values) else None


def _clip(tail: str | None) -> str | None:
    return tail[-TAIL_BYTES:] if tail is not None else None
