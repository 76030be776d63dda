"""How many of what there is in the database, for `/metrics` (SQL). Cheap enough to be asked every few seconds."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, text
from sqlmodel import Session, col, select

from app.db import now
from app.models import QUEUED, STATES, MetricSummary, Run, RunEvent
from app.workers import list_present

SETTLE_S = 5.0  # events of transactions that take longer than this to commit are not counted
MAX_EVENTS = 10_000


@dataclass(frozen=True)
class Census:
    """`oldest_wait_s` is of the run that has waited longest; `points` and `flushes` are of all runs there are."""

    runs: dict[str, int]
    waiting: int  # queued, and not held back after a failure
    oldest_wait_s: float
    workers: int
    slots: int
    busy: int
    oldest_worker_age_s: float
    points: int
    flushes: int
    size_bytes: int


def take_census(s: Session) -> Census:
    at = now(s)
    by_state = s.execute(select(Run.state, func.count()).group_by(col(Run.state))).all()
    states = dict.fromkeys(STATES, 0) | {row[0]: row[1] for row in by_state}
    waiting, since = s.execute(
        select(func.count(), func.min(col(Run.queued_at))).where(
            col(Run.state) == QUEUED, col(Run.not_before) <= at
        )
    ).one()
    present = list_present(s)
    return Census(
        runs=states,
        waiting=waiting,
        oldest_wait_s=max(0.0, at - since) if since is not None else 0.0,
        workers=len(present),
        slots=sum(worker.slots for worker in present),
        busy=sum(len(worker.running) for worker in present),
        oldest_worker_age_s=max((at - worker.seen_at for worker in present), default=0.0),
        points=s.exec(select(func.coalesce(func.sum(MetricSummary.count), 0))).one(),
        flushes=s.exec(select(func.coalesce(func.sum(Run.seq), 0))).one(),
        size_bytes=_size_bytes(s),
    )


def _size_bytes(s: Session) -> int:
    """Of the database itself; without SQLite's write-ahead log."""
    if s.get_bind().dialect.name == "postgresql":
        return int(s.connection().execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    pages = s.connection().execute(text("PRAGMA page_count")).scalar_one()
    return int(pages) * int(s.connection().execute(text("PRAGMA page_size")).scalar_one())


def newest_event(s: Session) -> int:
    return s.exec(select(func.max(col(RunEvent.id)))).one() or 0


def transitions_after(s: Session, event: int) -> tuple[dict[tuple[str, str, str], int], int]:
    """How often runs went from a state to another by whom (user, reaper, worker) since an event; the last one seen."""
    query = (
        select(RunEvent.id, RunEvent.from_state, RunEvent.to_state, RunEvent.actor)
        .where(col(RunEvent.id) > event, col(RunEvent.at) < now(s) - SETTLE_S)
        .order_by(col(RunEvent.id))
        .limit(MAX_EVENTS)
    )
    found: dict[tuple[str, str, str], int] = {}
    for number, before, after, actor in s.exec(query):
        key = (before or "", after, actor if actor in ("user", "reaper") else "worker")
        found[key] = found.get(key, 0) + 1
        event = max(event, number or 0)
    return found, event
