"""The look of a run, everywhere: one of `STYLES` pairs of a colour and a dash, given when the run is created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlmodel import Session, col, func, select

from app.models import Run

COLOURS = 8
DASHES = 4
STYLES = COLOURS * DASHES


class Look(NamedTuple):
    """`colour` counts the theme's run colours; `dash` 0 is solid, and tells runs of one colour apart."""

    colour: int
    dash: int


def next_style(s: Session, experiment: str | None) -> int:
    """The style for a run that is about to be created: the colour after that of the run before.

    Solid, as that is the calmest to look at; within an experiment, dashed where its runs have used up the colour.
    """
    latest = s.exec(select(Run.style).order_by(col(Run.id).desc()).limit(1)).first()
    colour = 0 if latest is None else (latest + 1) % COLOURS
    if experiment is None:
        return colour
    same = col(Run.experiment) == experiment, col(Run.style) % COLOURS == colour
    used = s.exec(select(func.count()).select_from(Run).where(*same)).one()
    return colour + used % DASHES * COLOURS


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
