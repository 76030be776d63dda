"""What people ask of a run: cancel, pause, resume, edit, delete. Of a running one it is a flag in its row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from app.actor import USER, actor
from app.db import now
from app.errors import Conflict
from app.models import CANCELED, ENDED, FAILED, PAUSED, QUEUED, RUNNING, Run, RunEvent
from app.runs.reading import get_run, step_kept
from app.runs.transition import remark, touched, transition

ASKED = {CANCELED: "cancel asked for", PAUSED: "pause asked for"}
FLAGS = {CANCELED: "cancel_requested", PAUSED: "pause_requested"}


def request_cancel(s: Session, run_id: str) -> Run:
    """Cancel at once what waits or is paused; ask the trainer of what runs. Asking twice is no error.

    Raises: NotFound; Conflict when the run has ended.
    """
    run = get_run(s, run_id, lock=True)
    if run.state in ENDED:
        raise Conflict(f"the run is {run.state}; only a run that has not ended can be canceled")
    if run.state == RUNNING and run.kind == "training":
        return _ask(s, run, CANCELED)
    reason = "canceled"
    if run.state == PAUSED:
        reason = "canceled while it was paused"
    elif run.state == QUEUED:
        reason = "canceled while it waited" if run.attempt else "canceled before it ran"
    transition(s, run_id, run.state, CANCELED, actor(), reason)
    return get_run(s, run_id)


def request_pause(s: Session, run_id: str) -> Run:
    """Ask the trainer to write a checkpoint and stop. Raises: NotFound; Conflict when it does not run."""
    run = get_run(s, run_id, lock=True)
    if run.kind == "external":
        raise Conflict("an outside script drives this run; pause it there")
    if run.state == QUEUED:
        raise Conflict("the run is queued; pause it once it runs, or cancel it")
    if run.state != RUNNING:
        raise Conflict(f"the run is {run.state}; only a running one can be paused")
    return _ask(s, run, PAUSED)


def _ask(s: Session, run: Run, state: str) -> Run:
    """Set the flag of a running run, which is locked."""
    if not getattr(run, FLAGS[state]):
        values: dict[str, Any] = {FLAGS[state]: True, **touched(now(s))}
        s.execute(update(Run).where(col(Run.id) == run.id).values(values))
        remark(s, run.id, run.attempt, actor(), ASKED[state])
    return get_run(s, run.id)


def asked_for(s: Session, run: Run) -> tuple[str, str] | None:
    """The state that a person wants a running run to get, and who that is; cancel goes before pause."""
    state = next((state for state, flag in FLAGS.items() if getattr(run, flag)), None)
    if state is None:
        return None
    asked = (
        select(RunEvent.actor)
        .where(
            col(RunEvent.run_id) == run.id,
            col(RunEvent.attempt) == run.attempt,
            col(RunEvent.reason) == ASKED[state],
        )
        .order_by(col(RunEvent.id).desc())
    )
    return state, s.exec(asked.limit(1)).first() or USER


def resume_run(s: Session, run_id: str) -> Run:
    """paused, failed or canceled -> queued, as a new attempt from the last checkpoint.

    Raises: NotFound; Conflict from any other state.
    """
    run = get_run(s, run_id, lock=True)
    if run.kind != "training" or run.state not in (PAUSED, FAILED, CANCELED):
        raise Conflict(f"the run is {run.state}; only a paused, failed or canceled training can be resumed")
    fresh: dict[str, Any] = {
        "queued_at": now(s), "published_at": None, "not_before": 0.0, "failures": 0, "error": None, "error_tail": None,
        "ended_at": None,
    }  # fmt: skip
    kept = step_kept(run)
    reason = f"resumed from step {kept:,}" if kept else "resumed from the beginning"
    transition(s, run_id, run.state, QUEUED, actor(), reason, **fresh)
    return get_run(s, run_id)


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
