"""A run's row and its events, and how many wait."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import Session, col, select

from app.errors import NotFound
from app.models import QUEUED, Run, RunEvent


def get_run(s: Session, run_id: str, *, lock: bool = False) -> Run:
    """The row as it is now; with `lock`, as it stays until the transaction ends. Raises: NotFound."""
    query = select(Run).where(col(Run.id) == run_id).execution_options(populate_existing=True)
    run = s.exec(query.with_for_update() if lock else query).first()
    if run is None:
        raise NotFound(f"there is no run {run_id!r}")
    return run


def list_events(s: Session, run_id: str) -> Sequence[RunEvent]:
    return s.exec(select(RunEvent).where(col(RunEvent.run_id) == run_id).order_by(col(RunEvent.id))).all()


def step_kept(run: Run) -> int:
    """The step that the next attempt goes on from: the checkpoint's, or 0."""
    return int(run.checkpoint["step"]) if run.checkpoint else 0


def count_queued(s: Session) -> int:
    return s.exec(select(func.count()).select_from(Run).where(col(Run.state) == QUEUED)).one()
