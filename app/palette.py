"""The look of a run, everywhere: one of `STYLES` pairs of a colour and a dash, given when the run is created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlmodel import Session, col, select

from app.models import Run

COLOURS = 8
DASHES = 4
STYLES = COLOURS * DASHES


class Look(NamedTuple):
    """`colour` counts the theme's run colours; `dash` 0 is solid, and tells runs of one colour apart."""

    colour: int
    dash: int


def next_style(s: Session) -> int:
    """The style for a run that is about to be created: consecutive runs, as an experiment's are, look different."""
    latest = s.exec(select(Run.style).order_by(col(Run.id).desc()).limit(1)).first()
    return 0 if latest is None else (latest + 1) % STYLES


def look_of(style: int) -> Look:
    return Look(style % COLOURS, style // COLOURS % DASHES)


def distinct_styles(styles: Sequence[int]) -> list[int]:
    """The same styles with doubles moved to the next free one, as far as there are free ones."""
    taken: set[int] = set()
    chosen = []
    for style in styles:
        free = [(style + i) % STYLES for i in range(STYLES) if (style + i) % STYLES not in taken]
        chosen.append(free[0] if free else style)
        taken.add(chosen[-1])
    return chosen
