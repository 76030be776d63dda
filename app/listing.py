"""Runs as the pages, the API and the stream show them: brief rows, filters, order, pages by key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import func, or_
from sqlmodel import Session, col, select

from app.errors import Invalid
from app.fields import Field, parse_name, quoted
from app.models import QUEUED, RUNNING, STATES, MetricSummary, Run, RunEvent
from app.paging import Key, Place, beyond, order_by, read_cursor, write_cursor
from app.query import Node
from app.search import Sql
from ml.spec import RunSpec

SUMMARY = ("count", "nonfinite", "last", "last_step", "min", "min_step", "max", "max_step")
NEWEST_FIRST = "-created"
MOST_COUNTED = 10_000
RECENT = 500  # runs whose tags are offered


@dataclass(frozen=True)
class Filter:
    """Which runs, in which order. `sort` is a field's name (app.fields), with a leading minus for falling order."""

    experiment: str | None = None
    state: Sequence[str] = ()
    model: Sequence[str] = ()
    dataset: Sequence[str] = ()
    tag: str | None = None
    text: str | None = None
    sort: str = NEWEST_FIRST
    query: Node | None = None  # see app.query


class Order(NamedTuple):
    field: Field
    falling: bool

    @property
    def name(self) -> str:
        return "-" * self.falling + self.field.name


class Listed(NamedTuple):
    """One page of an order: ids with revisions, and the cursors of its neighbours, None at either end."""

    rows: list[tuple[str, int]]
    newer: str | None
    older: str | None


def read_order(sort: str) -> Order:
    """Raises: Invalid, for a field that there is not."""
    name = sort.removeprefix("-")
    if not name:
        raise Invalid("sort by a field's name, such as created, with a leading - to reverse", "sort")
    return Order(parse_name(name, "sort"), sort.startswith("-"))


def list_page(s: Session, wanted: Filter, *, limit: int, cursor: str | None = None) -> Listed:
    """One page of the runs that are wanted.

    Raises: Invalid, for a state, an order or a cursor that there is not.
    """
    order, sql = read_order(wanted.sort), Sql(s)
    keys = _keys(sql, order)
    place = None if cursor is None else read_cursor(cursor, order.name, keys)
    backward = place is not None and place.backward
    query: Any = select(Run.revision, *(key.expression for key in keys)).where(*_conditions(sql, wanted))
    if place is not None:
        query = query.where(beyond(keys, place))
    found = s.execute(query.order_by(*order_by(keys, backward)).limit(limit + 1)).all()
    more, rows = len(found) > limit, found[:limit]
    if backward:
        rows = rows[::-1]
    ends = (
        [write_cursor(order.name, Place(tuple(rows[i][1:]), i == 0)) for i in (0, -1)] if rows else [None] * 2
    )
    newer = ends[0] if (more if backward else place is not None) else None
    older = ends[1] if (more or backward) else None
    return Listed([(row[-1], row[0]) for row in rows], newer, older)


def list_runs(
    s: Session, wanted: Filter, *, limit: int, cursor: str | None = None
) -> tuple[list[Run], str | None]:
    """One page of runs and the cursor of the next, or None at the end.

    Raises: Invalid, for a state, an order or a cursor that there is not.
    """
    page = list_page(s, wanted, limit=limit, cursor=cursor)
    return get_runs(s, [run_id for run_id, _ in page.rows]), page.older


def get_runs(s: Session, run_ids: Sequence[str]) -> list[Run]:
    """The runs that are there, in the order of the ids."""
    found = {run.id: run for run in s.exec(select(Run).where(col(Run.id).in_(run_ids)))}
    return [found[run_id] for run_id in run_ids if run_id in found]


def _keys(sql: Sql, order: Order) -> list[Key]:
    """The order's keys; the id, which sorts by time of creation, is the last and tells all runs apart."""
    field, falling = order
    last = Key(col(Run.id), "text", falling, nullable=False)
    if field.name in ("created", "id"):
        return [last]
    number = Key(sql.number(field), "number", falling, field.nullable)
    text = Key(sql.text(field), "text", falling, field.nullable)
    if field.kind == "spec":
        return [number, text, last]
    return [text if field.kind in ("text", "tags") else number, last]


def count_runs(s: Session, wanted: Filter) -> int:
    """How many fit; MOST_COUNTED + 1 for more than that."""
    some = select(Run.id).where(*_conditions(Sql(s), wanted)).limit(MOST_COUNTED + 1).subquery()
    return s.exec(select(func.count()).select_from(some)).one()


def _conditions(sql: Sql, wanted: Filter) -> list[Any]:
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
        conditions.append(sql.has_tag(lambda tag: tag == wanted.tag))
    if wanted.text:
        fields = (Run.name, Run.notes, Run.experiment, Run.model, Run.id)
        conditions.append(or_(*(col(f).icontains(wanted.text, autoescape=True) for f in fields)))
    if wanted.query is not None:
        conditions.append(sql.where(wanted.query))
    return conditions


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


def list_recent_tags(s: Session) -> list[str]:
    """Tags of the newest runs, the most used first."""
    newest = s.exec(select(Run.tags).order_by(col(Run.id).desc()).limit(RECENT)).all()
    used = Counter(tag for tags in newest for tag in tags)
    return [tag for tag, _ in used.most_common(100)]


def list_recent_fields(s: Session, recent: int = 100) -> tuple[list[str], list[str]]:
    """What the newest runs have beyond a spec: names of outside scripts' parameters, and of metrics; sorted."""
    newest = s.exec(select(Run.id, Run.kind, Run.spec).order_by(col(Run.id).desc()).limit(recent)).all()
    keys = {
        key
        for _, kind, spec in newest
        if kind == "external"
        for key in spec
        if key not in RunSpec.model_fields
    }
    params = sorted(f"spec.{quoted(key)}" for key in keys if re.fullmatch(r'[^",\\\x00-\x1f]{1,100}', key))
    query = (
        select(MetricSummary.metric)
        .where(col(MetricSummary.run_id).in_([row[0] for row in newest]))
        .distinct()
    )
    metrics = s.exec(query).all()
    return params[:50], sorted(metrics)[:50]


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
    return {row.metric: {name: getattr(row, name) for name in SUMMARY} for row in rows}


def read_summaries(s: Session, run_ids: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """What `summary` makes, by run and metric, in one query and without an object a row."""
    found: dict[str, dict[str, dict[str, Any]]] = {run_id: {} for run_id in run_ids}
    columns: list[Any] = [MetricSummary.run_id, MetricSummary.metric]
    columns += [getattr(MetricSummary, name) for name in SUMMARY]
    query = select(*columns).where(col(MetricSummary.run_id).in_(run_ids)).order_by(col(MetricSummary.metric))
    for run_id, metric, *numbers in s.execute(query):
        found[run_id][metric] = dict(zip(SUMMARY, numbers, strict=True))
    return found


def brief(run: Run, summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
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
        "summary": summaries,
    }


def briefs(s: Session, runs: Sequence[Run]) -> list[dict[str, Any]]:
    found = read_summaries(s, [run.id for run in runs])
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
