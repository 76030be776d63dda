"""Series: windows of metrics, reduced to what a chart can show, with every extreme kept."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response
from sqlmodel import col, select

from app import series
from app.api.deps import Db
from app.axes import Axis, x_values
from app.errors import Invalid, NotFound
from app.models import Run

router = APIRouter(prefix="/api/v1", tags=["series"])

MAX_SERIES = 2_000


@router.get("/series", summary="Points of one or more series")
def get_series(
    db: Db,
    run: Annotated[list[str], Query(min_length=1, max_length=200)],
    metric: Annotated[list[str], Query(max_length=100)] = ["train/loss"],  # noqa: B006
    x: Axis = "step",
    points: Annotated[int, Query(ge=8, le=10_000)] = 1_000,
    from_: Annotated[float | None, Query(alias="from", allow_inf_nan=False)] = None,
    to: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> Response:
    """At most `points` real points a series in the window [from, to] of `x`; first, last, lowest and highest of each
    bucket are among them. `total` says how many points the window holds. NaN and infinity come as strings.

    A series that a run does not have comes back empty, with a `note` that says why.
    """
    run_ids, metrics = list(dict.fromkeys(run)), list(dict.fromkeys(metric))
    if len(run_ids) * len(metrics) > MAX_SERIES:
        raise Invalid(f"at most {MAX_SERIES} series in one call; ask for fewer runs or metrics", "metric")
    steps = (_whole(from_, math.ceil), _whole(to, math.floor)) if x == "step" else (None, None)
    with db.read() as s:
        rows = {row.id: row for row in s.exec(select(Run).where(col(Run.id).in_(run_ids)))}
        blocks = series.read_blocks(s, run_ids, metrics, *steps)
    missing = [run_id for run_id in run_ids if run_id not in rows]
    if missing:
        raise NotFound(f"there is no run {missing[0]!r}", "run")
    answer = [
        _one(rows[run_id], name, blocks.get((run_id, name), series.EMPTY), x, points, from_, to)
        for run_id in run_ids
        for name in metrics
    ]
    body = json.dumps({"x": x, "series": answer}, allow_nan=False, separators=(",", ":"))
    return Response(body, media_type="application/json", headers={"cache-control": "no-cache"})


def _whole(value: float | None, rounded: Any) -> int | None:
    return None if value is None else int(max(-(2**53), min(2**53, rounded(value))))


def _one(
    run: Run, metric: str, block: series.Block, axis: Axis, points: int, low: float | None, high: float | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"run": run.id, "metric": metric}
    x = x_values(axis, run, block)
    if x is None:
        found["note"] = (
            f"this run does not know how many steps make an epoch, so it has no {axis} axis; use x=step"
        )
        block, x = series.EMPTY, np.empty(0)
    elif not len(block.steps):
        found["note"] = "no points here (yet)"
    if axis != "step" and (low is not None or high is not None):
        first = 0 if low is None else int(np.searchsorted(x, low, side="left"))
        last = len(x) if high is None else int(np.searchsorted(x, high, side="right"))
        window = slice(first, last)
        block, x = series.Block(block.steps[window], block.times[window], block.values[window]), x[window]
    kept = series.reduce_to(x, block.values, points)
    decimals = {"epoch": 6, "time": 3, "elapsed": 3}.get(axis)
    shown = x[kept] if decimals is None else x[kept].round(decimals)
    return found | {
        "step": block.steps[kept].tolist(),
        "x": block.steps[kept].tolist() if axis == "step" else shown.tolist(),
        "value": series.json_floats(block.values[kept]),
        "total": len(block.steps),
        "returned": len(kept),
        "cursor": run.seq,
    }
