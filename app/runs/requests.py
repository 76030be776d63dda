"""What people ask of a run: cancel, pause, resume, edit, delete. Of a running one it is a flag in its row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, update
from sqlmodel import Session, col

from app.db import now
from app.errors import Conflict
from app.models import CANCELED, ENDED, FAILED, PAUSED, QUEUED, RUNNING, Run
from app.runs.reading import get_run
from app.runs.transition import record, touched, transition


def request_cancel(s: Session, run_id: str) -> Run:
    """Cancel at once what waits or is paused; ask the trainer of what runs. Asking twice is no error.

    Raises: NotFound; Conflict when the run has ended.
    """
    run = get_run(s, run_id, lock=True)
    if run.kind == "external":
        if not transition(s, run_id, RUNNING, CANCELED, "user", "canceled"):
            raise Conflict(f"the run is {run.state}; only a run that has not ended can be canceled")
        return get_run(s, run_id)
    if run.state in (QUEUED, PAUSED):
        reason = "canceled before it ran" if run.attempt == 0 else "canceled"
        transition(s, run_id, run.state, CANCELED, "user", reason)
        return get_run(s, run_id)
    return _ask(s, run_id, "cancel_requested", "cancel asked for", "canceled")


def request_pause(s: Session, run_id: str) -> Run:
    """Ask the trainer to write a checkpoint and stop. Raises: NotFound; Conflict when it does not run."""
    if get_run(s, run_id, lock=True).kind == "external":
        raise Conflict("an outside script drives this run; pause it there")
    return _ask(s, run_id, "pause_requested", "pause asked for", "paused")


def _ask(s: Session, run_id: str, flag: str, reason: str, verb: str) -> Run:
    at = now(s)
    column: Any = getattr(Run, flag)
    asked = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.state) == RUNNING, column.is_(False))
        .values({flag: True, **touched(at)})
    )
    run = get_run(s, run_id)
    if run.state != RUNNING:
        raise Conflict(f"the run is {run.state}; only a run that has not ended can be {verb}")
    if asked.rowcount:  # type: ignore[attr-defined]
        record(s, run_id, at, RUNNING, RUNNING, "user", reason, run.attempt)
    return run


def resume_run(s: Session, run_id: str) -> Run:
    """paused, failed or canceled -> queued, as a new attempt from the last checkpoint.

    Raises: NotFound; Conflict from any other state.
    """
    run = get_run(s, run_id, lock=True)
    at = now(s)
    fresh: dict[str, Any] = {
        "queued_at": at, "published_at": None, "not_before": 0.0, "failures": 0, "error": None, "error_tail": None,
        "ended_at": None,
    }  # fmt: skip
    if run.kind == "training" and run.state in (PAUSED, FAILED, CANCELED):
        transition(s, run_id, run.state, QUEUED, "user", "resumed", **fresh)
        return get_run(s, run_id)
    raise Conflict(f"the run is {run.state}; only a paused, failed or canceled training can be resumed")


def edit_run(
    s: Session,
    run_id: str,
    *,
    name: str | None,
    notes: str | None,
    tags: list[str] | None,
    experiment: str | None,
) -> Run:
    """The run with what is given changed; an empty experiment takes it out of its experiment. Raises: NotFound."""
    run = get_run(s, run_id)
    given = {"name": name, "notes": notes, "tags": tags, "experiment": experiment}
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if experiment == "":
        values["experiment"] = None
    s.execute(update(Run).where(col(Run.id) == run_id).values(**values, **touched(now(s))))
    s.refresh(run)
    return run


def delete_run(s: Session, run_id: str) -> None:
    """Delete a run with all that it measured. Raises: NotFound; Conflict while it runs or waits."""
    run = get_run(s, run_id)
    gone = s.execute(delete(Run).where(col(Run.id) == run_id, col(Run.state).in_((*ENDED, PAUSED))))
    if not gone.rowcount:  # type: ignore[attr-defined]
        raise Conflict(f"the run is {run.state}; cancel it before you delete it")
