"""What `GET /series` and `GET /groups` are both asked: runs, metrics, a number of points, and a window of x."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple, TypeAlias, TypeVar

import numpy as np
from fastapi import Depends, Query
from sqlmodel import Session, col, select

from app.axes import Axis
from app.chunks import Floats
from app.errors import Invalid, NotFound
from app.models import Run
from app.smooth import MAX_SMOOTH

MAX_SERIES = 2_000
MAX_POINTS = 2_000_000  # in one answer, some 50 MB of JSON
T = TypeVar("T")

RunIds: TypeAlias = Annotated[list[str], Query(alias="run", min_length=1, max_length=200)]
Metrics: TypeAlias = Annotated[list[str], Query(alias="metric", max_length=100)]
Points: TypeAlias = Annotated[int, Query(ge=8, le=10_000)]
Smooth: TypeAlias = Annotated[float, Query(ge=0, le=MAX_SMOOTH, allow_inf_nan=False)]


class Window(NamedTuple):
    """The ends of x that are asked for, both included; None leaves an end open."""

    low: float | None
    high: float | None

    def slice_of(self, x: Floats) -> slice:
        """Where the window lies in a rising x."""
        low = 0 if self.low is None else int(np.searchsorted(x, self.low, side="left"))
        high = len(x) if self.high is None else int(np.searchsorted(x, self.high, side="right"))
        return slice(low, high)

    def steps(self, axis: Axis) -> tuple[int | None, int | None]:
        """The window as steps where x is the step, so that the database reads no more than that."""
        if axis != "step":
            return None, None
        return _whole(self.low, math.ceil), _whole(self.high, math.floor)

    @property
    def is_backward(self) -> bool:
        return self.low is not None and self.high is not None and self.low > self.high


NO_WINDOW = Window(None, None)


def _whole(value: float | None, rounded: Callable[[float], int]) -> int | None:
    return None if value is None else int(max(-(2**53), min(2**53, rounded(value))))


def get_window(
    from_: Annotated[float | None, Query(alias="from", allow_inf_nan=False)] = None,
    to: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> Window:
    return Window(from_, to)


AskedWindow: TypeAlias = Annotated[Window, Depends(get_window)]


def check_count(run_ids: Sequence[str], metrics: Sequence[str], points: int = 0) -> None:
    """Raises: Invalid when the answer would be too large. `points` are those of a series; 0 where all are streamed."""
    count = len(run_ids) * len(metrics)
    if count > MAX_SERIES:
        raise Invalid(f"at most {MAX_SERIES} series in one call; ask for fewer runs or metrics", "metric")
    if count * points > MAX_POINTS:
        raise Invalid(f"{count} series have at most {MAX_POINTS // count} points each in one call", "points")


class Revision(NamedTuple):
    """A run as it is now: `revision` grows with every write to it, `seq` is its cursor."""

    run_id: str
    revision: int
    seq: int


def read_revisions(s: Session, run_ids: Sequence[str]) -> dict[str, Revision]:
    """What a tag needs of these runs, in the order asked for. Raises: NotFound."""
    columns = (col(Run.id), col(Run.revision), col(Run.seq))
    found = s.execute(select(*columns).where(col(Run.id).in_(run_ids)))
    return _all_of({row.run_id: row for row in (Revision(*row) for row in found)}, run_ids)


def find_runs(s: Session, run_ids: Sequence[str]) -> dict[str, Run]:
    """The rows, in the order asked for. Raises: NotFound."""
    return _all_of({run.id: run for run in s.exec(select(Run).where(col(Run.id).in_(run_ids)))}, run_ids)


def _all_of(rows: Mapping[str, T], run_ids: Sequence[str]) -> dict[str, T]:
    missing = [run_id for run_id in run_ids if run_id not in rows]
    if missing:
        raise NotFound(f"there is no run {missing[0]!r}", "run")
    return {run_id: rows[run_id] for run_id in run_ids}


def why_empty(window: Window) -> str:
    return "from lies behind to: the window is empty" if window.is_backward else "no points here (yet)"


def no_axis(axis: Axis) -> str:
    return f"this run does not know how many steps make an epoch, so it has no {axis} axis; use x=step"
