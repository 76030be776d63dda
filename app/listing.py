"""Runs as the pages, the API and the stream show them: brief rows, filters, order, pages by key."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import String, and_, cast, func, or_
from sqlmodel import Session, col, select

from app import series
from app.errors import Invalid
from app.models import QUEUED, RUNNING, STATES, MetricSummary, Run, RunEvent

SORTS: dict[str, Any] = {
    "created": Run.id,  # ids sort by time of creation
    "name": Run.name,
    "state": Run.state,
    "model": func.coalesce(col(Run.model), ""),
    "dataset": func.coalesce(col(Run.dataset), ""),
    "updated": Run.updated_at,
}


@dataclass(frozen=True)
class Filter:
    """Which runs, in which order. `sort` is a column's name, with a leading minus for falling order."""

    experiment: str | None = None
    state: Sequence[str] = ()
    model: Sequence[str] = ()
    dataset: Sequence[str] = ()
    tag: str | None = None
    text: str | None = None
    sort: str = "-created"


def list_runs(
    s: Session, wanted: Filter, *, limit: int, cursor: str | None = None
) -> tuple[list[Run], str | None]:
    """One page of runs and the cursor of the next, or None at the end.

    Raises: Invalid, for a state, an order or a cursor that there is not.
    """
    falling, name = wanted.sort.startswith("-"), wanted.sort.removeprefix("-")
    if name not in SORTS:
        raise Invalid(
            f"cannot sort by {name!r}; choose one of {', '.join(SORTS)}, with a leading - to reverse", "sort"
        )
    key: Any = SORTS[name]
    query = select(Run, key).where(*_conditions(wanted))
    if cursor is not None:
        value, run_id = _read_cursor(cursor, name)
        place, last = (key, col(Run.id)), (value, run_id)
        beyond = [a < b if falling else a > b for a, b in zip(place, last, strict=True)]
        query = query.where(or_(beyond[0], and_(key == value, beyond[1])))
    order = [key, col(Run.id)]
    query = query.order_by(*(column.desc() if falling else column.asc() for column in order))
    rows = s.exec(query.limit(limit + 1)).all()
    more = len(rows) > limit
    rows = rows[:limit]
    next_cursor = _write_cursor(name, rows[-1][1], rows[-1][0].id) if more else None
    return [run for run, _ in rows], next_cursor


def count_runs(s: Session, wanted: Filter) -> int:
    return s.exec(select(func.count()).select_from(Run).where(*_conditions(wanted))).one()


def _conditions(wanted: Filter) -> list[Any]:
    conditions: list[Any] = []
    for state in wanted.state:
        if state not in STATES:
            raise Invalid(f"there is no state {state!r}; choose one of {', '.join(STATES)}", "state")
    for column, values in (
        (Run.state, wanted.state),
        (Run.model, wanted.model),
        (Run.dataset, wanted.dataset),
    ):
        if values:
            conditions.append(col(column).in_(values))
    if wanted.experiment is not None:
        conditions.append(col(Run.experiment) == wanted.experiment)
    if wanted.tag is not None:
        # JSON text of the tag between its quotes: the same on SQLite and Postgres.
        conditions.append(cast(col(Run.tags), String).contains(json.dumps(wanted.tag), autoescape=True))
    if wanted.text:
        fields = (Run.name, Run.notes, Run.experiment, Run.model, Run.id)
        conditions.append(or_(*(col(f).icontains(wanted.text, autoescape=True) for f in fields)))
    return conditions


def _write_cursor(sort: str, value: Any, run_id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([sort, value, run_id]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, sort: str) -> tuple[Any, str]:
    try:
        made_for, value, run_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError):
        made_for = value = run_id = None
    kind = float if sort == "updated" else str
    if made_for != sort or not isinstance(value, kind) or not isinstance(run_id, str):
        message = "the cursor is not one that this server gave for this order; leave it out to start again"
        raise Invalid(message, "cursor")
    return value, run_id


def count_states(s: Session) -> dict[str, int]:
    rows = s.exec(select(Run.state, func.count()).group_by(col(Run.state))).all()
    return dict.fromkeys(STATES, 0) | dict(rows)


def list_experiments(s: Session) -> list[tuple[str, int]]:
    """Names of experiments with their number of runs, the newest first."""
    rows = s.exec(
        select(Run.experiment, func.count())
        .where(col(Run.experiment).is_not(None))
        .group_by(col(Run.experiment))
        .order_by(func.max(col(Run.id)).desc())
        .limit(100)
    ).all()
    return [(name, count) for name, count in rows if name is not None]


def list_waiting(s: Session, limit: int = 200) -> list[Run]:
    """Queued runs in the order in which they will start."""
    return list(
        s.exec(select(Run).where(col(Run.state) == QUEUED).order_by(col(Run.queued_at)).limit(limit)).all()
    )


def iso(at: float | None) -> str | None:
    """Unix seconds as ISO-8601 in UTC."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def progress(run: Run) -> float | None:
    """0 to 1; None where the number of steps is not known."""
    if run.state == "finished":
        return 1.0
    return min(1.0, run.step / run.total_steps) if run.total_steps else None


def eta_s(run: Run) -> float | None:
    if run.state != RUNNING or not run.step_rate or not run.total_steps:
        return None
    return max(0.0, (run.total_steps - run.step) / run.step_rate)


def summary(rows: Sequence[MetricSummary]) -> dict[str, dict[str, Any]]:
    fields = ("count", "nonfinite", "last", "last_step", "min", "min_step", "max", "max_step")
    return {row.metric: {name: getattr(row, name) for name in fields} for row in rows}


def brief(run: Run, summaries: Sequence[MetricSummary]) -> dict[str, Any]:
    """What a list and the stream say of a run; JSON."""
    return {
        "id": run.id,
        "name": run.name,
        "kind": run.kind,
        "state": run.state,
        "url": f"/runs/{run.id}",
        "experiment": run.experiment,
        "tags": run.tags,
        "model": run.model,
        "dataset": run.dataset,
        "spec": run.spec,
        "attempt": run.attempt,
        "worker": run.worker,
        "phase": run.phase,
        "step": run.step,
        "total_steps": run.total_steps or None,
        "epoch": run.epoch,
        "steps_per_epoch": run.steps_per_epoch or None,
        "progress": progress(run),
        "eta_s": eta_s(run),
        "steps_per_s": run.step_rate,
        "cancel_requested": run.cancel_requested,
        "pause_requested": run.pause_requested,
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "ended_at": iso(run.ended_at),
        "updated_at": iso(run.updated_at),
        "error": run.error,
        "cursor": run.seq,
        "summary": summary(summaries),
    }


def briefs(s: Session, runs: Sequence[Run]) -> list[dict[str, Any]]:
    found = series.list_summaries(s, [run.id for run in runs])
    return [brief(run, found[run.id]) for run in runs]


def event_json(event: RunEvent) -> dict[str, Any]:
    return {
        "at": iso(event.at),
        "from": event.from_state,
        "to": event.to_state,
        "actor": event.actor,
        "reason": event.reason,
        "attempt": event.attempt,
    }
