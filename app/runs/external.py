"""Runs that an outside script drives: it appends points and ends the run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col

from app import series
from app.actor import actor
from app.db import now
from app.errors import Conflict
from app.models import RUNNING, MetricBatch, Run
from app.runs.reading import get_run
from app.runs.transition import touched, transition


def finish_external(s: Session, run_id: str, to_state: str, error: str | None) -> Run:
    """running -> finished, failed or canceled for a run that an outside script drives.

    Raises: NotFound; Conflict when a worker drives it or it has ended.
    """
    run = get_run(s, run_id)
    if run.kind != "external":
        raise Conflict("a worker drives this run and ends it; cancel it instead")
    if not transition(
        s, run_id, RUNNING, to_state, actor("script"), error or "ended by the script", error=error
    ):
        raise Conflict(f"the run is {run.state} already")
    return get_run(s, run_id)


def append_external(s: Session, run_id: str, batch: str | None, points: series.Points) -> tuple[int, bool]:
    """The new cursor, and whether anything was written: a batch id seen before changes nothing.

    Raises: NotFound; Conflict when a worker drives the run or it has ended.
    """
    at = now(s)
    values: dict[str, Any] = {"seq": col(Run.seq) + 1, **touched(at)}
    seq = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.kind) == "external", col(Run.state) == RUNNING)
        .values(**values)
        .returning(col(Run.seq))
    ).scalar_one_or_none()
    run = get_run(s, run_id)
    if seq is None:
        if batch is not None and s.get(MetricBatch, (run_id, batch)) is not None:
            return run.seq, False
        if run.kind != "external":
            raise Conflict("a worker drives this run; only an external run takes metrics")
        raise Conflict(f"the run is {run.state}; it takes no more metrics")
    if batch is not None:
        if s.get(MetricBatch, (run_id, batch)) is not None:
            run.seq = seq - 1
            return seq - 1, False
        s.add(MetricBatch(run_id=run_id, batch=batch, at=at))
    series.append_chunks(s, run_id, seq, points)
    run.step = max(run.step, *(int(p.steps[-1]) for p in points.values()))
    return seq, True
