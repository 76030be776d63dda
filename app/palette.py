"""Which colour a run has, everywhere: a number from 0 to SLOTS - 1, by the order in which runs were created."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, func, select

from app.models import Run

SLOTS = 8


def colour_slots(s: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """The slot of each run: consecutive runs, as those of one experiment are, get different colours."""
    if not run_ids:
        return {}
    first, last = min(run_ids), max(run_ids)
    before = s.exec(select(func.count()).select_from(Run).where(col(Run.id) < first)).one()
    between = s.exec(
        select(Run.id).where(col(Run.id) >= first, col(Run.id) <= last).order_by(col(Run.id))
    ).all()
    place = {run_id: (before + i) % SLOTS for i, run_id in enumerate(between)}
    return {run_id: place.get(run_id, 0) for run_id in run_ids}


def distinct_slots(slots: Sequence[int]) -> list[int]:
    """The same slots with doubles moved to the next free colour, as far as there are free ones."""
    taken: set[int] = set()
    chosen = []
    for slot in slots:
        free = [(slot + i) % SLOTS for i in range(SLOTS) if (slot + i) % SLOTS not in taken]
        chosen.append(free[0] if free else slot)
        taken.add(chosen[-1])
    return chosen
