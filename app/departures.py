"""Notices runs that were deleted, for those who watch all runs: a deleted row leaves nothing that could be read."""

from __future__ import annotations

from sqlalchemy import func
from sqlmodel import Session, col, select

from app.models import Run

LOOK_S = 1.0


class Departures:
    """Remembers which runs there were. The count and the newest id say whether the ids must be read again."""

    def __init__(self) -> None:
        self._mark: tuple[int, str | None] | None = None
        self._ids: frozenset[str] = frozenset()
        self._looked_at = 0.0

    def look(self, s: Session, at: float) -> frozenset[str]:
        """Ids of runs that went since the last look; looks once a second at most."""
        if at - self._looked_at < LOOK_S:
            return frozenset()
        self._looked_at = at
        mark = s.exec(select(func.count(), func.max(col(Run.id))).select_from(Run)).one()
        if mark == self._mark:
            return frozenset()
        ids = frozenset(s.exec(select(Run.id)))
        gone = self._ids - ids
        self._mark, self._ids = (mark[0], mark[1]), ids
        return gone
