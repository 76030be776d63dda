"""The one place that changes a run's state: what is legal, the compare-and-set, and its row in the event table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, insert, update
from sqlmodel import Session, col

from app.db import now
from app.errors import Conflict
from app.models import CANCELED, ENDED, FAILED, FINISHED, PAUSED, QUEUED, RUNNING, Run, RunEvent

NEXT: Mapping[str | None, frozenset[str]] = {
    None: frozenset({QUEUED, RUNNING}),  # running at once: an outside script drives it
    QUEUED: frozenset({RUNNING, CANCELED}),
    RUNNING: frozenset({QUEUED, PAUSED, FINISHED, FAILED, CANCELED}),
    PAUSED: frozenset({QUEUED, CANCELED}),
    FAILED: frozenset({QUEUED}),
    CANCELED: frozenset({QUEUED}),
    FINISHED: frozenset(),
}
_IDLE: Mapping[str, Any] = {
    "lease_until": None, "phase": "", "step_rate": None, "cancel_requested": False, "pause_requested": False,
}  # fmt: skip


def begin(s: Session, run: Run, actor: str, reason: str) -> None:
    """Record that a new run is there. Raises: Conflict when it may not begin in its state."""
    _check(None, run.state)
    _record(s, run.id, run.created_at, None, run.state, actor, reason, 0)


def transition(
    s: Session,
    run_id: str,
    from_state: str,
    to_state: str,
    actor: str,
    reason: str,
    *guards: ColumnElement[bool],
    **values: Any,
) -> Run | None:
    """Compare-and-set of the state, with its event; `values` are columns that change with it.

    The row as it is then; None when the run was not in `from_state`, or a guard failed. What people asked of the run is
    done with by any transition. Raises: Conflict when there is no such transition.
    """
    _check(from_state, to_state)
    at = now(s)
    if to_state in ENDED:
        values["ended_at"] = at
    changed = (
        update(Run)
        .where(col(Run.id) == run_id, col(Run.state) == from_state, *guards)
        .values(state=to_state, **{**_IDLE, **values, **touched(at)})
        .returning(Run)
        .execution_options(
            populate_existing=True, synchronize_session=False
        )  # what is returned is what changed
    )
    run: Run | None = s.execute(changed).scalar_one_or_none()
    if run is not None:
        _record(s, run_id, at, from_state, to_state, actor, reason, run.attempt)
    return run


def remark(s: Session, run_id: str, attempt: int, actor: str, reason: str) -> None:
    """An event of a running run that leaves it running."""
    _record(s, run_id, now(s), RUNNING, RUNNING, actor, reason, attempt)


def touched(at: float) -> dict[str, Any]:
    """Columns that every change of a row changes too."""
    return {"updated_at": at, "revision": col(Run.revision) + 1}


def _check(from_state: str | None, to_state: str) -> None:
    if to_state not in NEXT[from_state]:
        raise Conflict(f"a run that is {from_state or 'new'} cannot become {to_state}")


def _record(
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
