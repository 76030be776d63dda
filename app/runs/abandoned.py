"""The reaper's questions: which runs lost their worker, which messages were never sent."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, update
from sqlmodel import Session, col, select

from app.db import now
from app.models import QUEUED, RUNNING, Run
from app.runs.endings import BACK_OFF_S, give_back

REAPER = "reaper"  # the actor of what no person and no worker did
TOO_FAR = 3  # times as long as a lease or a back-off ever is


def reap_expired(s: Session, *, max_failures: int) -> list[tuple[str, str]]:
    """Take back runs whose lease has expired: (id, new state) of each."""
    at = now(s)
    query = select(Run).where(col(Run.state) == RUNNING, col(Run.lease_until) < at)
    expired = s.exec(query.with_for_update(skip_locked=True)).all()
    taken = []
    for run in expired:
        why = f"worker {run.worker} stopped answering"
        state = give_back(s, run, REAPER, why, max_failures=max_failures)
        if state is not None:
            taken.append((run.id, state))
    return taken


def has_expired(s: Session) -> bool:
    return (
        s.exec(
            select(Run.id).where(col(Run.state) == RUNNING, col(Run.lease_until) < now(s)).limit(1)
        ).first()
        is not None
    )


def has_unpublished(s: Session, *, after_s: float) -> bool:
    return s.exec(select(Run.id).where(*_unpublished(now(s), after_s)).limit(1)).first() is not None


def _unpublished(at: float, after_s: float) -> tuple[ColumnElement[bool], ...]:
    due = or_(col(Run.published_at).is_(None), col(Run.published_at) < at - after_s)
    return (col(Run.state) == QUEUED, col(Run.not_before) <= at, due)


def extend_leases(s: Session, lease_s: float) -> None:
    """Once, after the reaper itself was asleep: the workers may have been asleep with it."""
    s.execute(update(Run).where(col(Run.lease_until).is_not(None)).values(lease_until=now(s) + lease_s))


def redate(s: Session, lease_s: float) -> None:
    """Date anew what lies further ahead than anything is ever dated: the clock has been set back since.

    Otherwise a run whose worker has died would keep its lease until that time comes, and one that backs off would wait.
    """
    at = now(s)
    too_late = at + TOO_FAR * lease_s
    s.execute(update(Run).where(col(Run.lease_until) > too_late).values(lease_until=at + lease_s))
    waits = col(Run.state) == QUEUED
    s.execute(
        update(Run).where(waits, col(Run.not_before) > at + TOO_FAR * max(BACK_OFF_S)).values(not_before=at)
    )
    s.execute(update(Run).where(waits, col(Run.published_at) > at + lease_s).values(published_at=None))


def take_unpublished(s: Session, *, after_s: float, limit: int = 50) -> list[str]:
    """Ids of queued runs whose message was never sent, or so long ago that it may be lost; marked as sent now."""
    at = now(s)
    query = select(Run.id).where(*_unpublished(at, after_s)).order_by(col(Run.queued_at)).limit(limit)
    ids = list(s.exec(query).all())
    mark_published(s, ids)
    return ids


def mark_unpublished(s: Session, ids: Sequence[str]) -> None:
    """The broker did not take their messages: they are due again at once."""
    s.execute(update(Run).where(col(Run.id).in_(ids)).values(published_at=None))


def mark_published(s: Session, ids: Sequence[str]) -> None:
    if ids:
        s.execute(update(Run).where(col(Run.id).in_(ids)).values(published_at=now(s)))
