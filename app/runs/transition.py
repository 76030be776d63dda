"""The one place that changes a run's state: a compare-and-set with its row in the event table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, insert, update
from sqlmodel import Session, col

from app.db import now
from app.models import ENDED, Run, RunEvent


def transition(
    s: Session,
    run_id: str,
    from_state: str,
    to_state: str,
    actor: str,
    reason: str,
    *guards: ColumnElement[bool],
    **values: Any,
) -> bool:
    """Compare-and-set of the state, with its event. False when the run was not in `from_state`, or a guard failed."""
    at = now(s)
    idle: dict[str, Any] = {"lease_until": None, "phase": "", "step_rate": None}
    idle |= {"cancel_requested": False, "pause_requested": False}
    values = {**idle, **values, **touched(at)}
    if to_state in ENDED:
        values["ended_at"] = at
    attempt = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.state) == from_state, *guards)
        .values(state=to_state, **values)
        .returning(col(Run.attempt))
    ).scalar_one_or_none()
    if attempt is None:
        return False
    record(s, run_id, at, from_state, to_state, actor, reason, attempt)
    return True


def touched(at: float) -> dict[str, Any]:
    return {"updated_at": at, "revision": col(Run.revision) + 1}


def record(
    s: Session, run_id: str, at: float, before: str | None, after: str, actor: str, reason: str, attempt: int
) -> None:
    s.execute(
        insert(RunEvent).values(
            run_id=run_id,
            at=at,
            from_state=before,
            to_state=after,
            actor=actor,
            reason=reason,
            attempt=attempt,
        )
    )
