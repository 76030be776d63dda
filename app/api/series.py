"""Series: windows of metrics, reduced to what a chart can show, with every extreme kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from app import series
from app.api.answers import answer_json
from app.api.deps import Db
from app.api.windows import (
    NO_WINDOW,
    AskedWindow,
    Metrics,
    Points,
    RunIds,
    Smooth,
    Window,
    check_count,
    find_runs,
    no_axis,
    why_empty,
)
from app.axes import Axis, x_values
from app.chunks import EMPTY, Block, Floats
from app.columns import Format, json_floats, odd_points, typed
from app.models import Run
from app.reduce import reduce_to
from app.smooth import smooth_values

router = APIRouter(prefix="/api/v1", tags=["series"])

DECIMALS = {"epoch": 6, "time": 3, "elapsed": 3}


@router.get("/series", summary="Points of one or more series")
def get_series(
    request: Request,
    db: Db,
    runs: RunIds,
    metrics: Metrics = ["train/loss"],  # noqa: B006
    x: Axis = "step",
    points: Points = 1_000,
    window: AskedWindow = NO_WINDOW,
    smooth: Smooth = 0.0,
    format: Format = "json",  # noqa: A002  # the parameter's name
) -> Response:
    """At most `points` real points a series in the window [from, to] of `x`; first, last, lowest and highest of each
    bucket are among them. `total` says how many points the window holds. NaN and infinity come as strings.

    `smooth` (0..0.999) gives the moving average of all points instead, reduced afterwards: TensorBoard's causal,
    debiased one, m = smooth * m + (1 - smooth) * value, over 1 - smooth^n at the n-th finite point.

    A series that a run does not have comes back empty, with a `note` that says why.

    `format=typed`: the columns are `{"dtype": "f4", "bdata": "..."}`, little-endian in base64, as Plotly takes them, in
    the narrowest type that loses nothing (`u1 i1 u2 i2 u4 i4 f4 f8`). NaN and infinity are in it as they are; `odd`
    lists them: `[[index, "NaN"]]`. `x` is left out where it is the step.
    """
    run_ids, names = list(dict.fromkeys(runs)), list(dict.fromkeys(metrics))
    check_count(run_ids, names)
    with db.read() as s:
        rows = find_runs(s, run_ids)
        blocks = series.read_blocks(s, run_ids, names, *(NO_WINDOW if smooth else window).steps(x))
    found = [
        _one(rows[run_id], name, blocks.get((run_id, name), EMPTY), x, points, window, smooth, format)
        for run_id in run_ids
        for name in names
    ]
    return answer_json(request, to_json({"x": x, "series": found}))


def _one(
    run: Run,
    metric: str,
    block: Block,
    axis: Axis,
    points: int,
    window: Window,
    smooth: float,
    form: Format,
) -> dict[str, Any]:
    found: dict[str, Any] = {"run": run.id, "metric": metric}
    x = x_values(axis, run, block)
    if x is None:
        found["note"] = no_axis(axis)
        block, x = EMPTY, np.empty(0)
    if smooth:  # the average of a window's first point is made of those before it
        block = block._replace(values=smooth_values(block.values, smooth))
    if smooth or axis != "step":
        inside = window.slice_of(x)
        block, x = block.part(inside), x[inside]
    if not len(block.steps):
        found.setdefault("note", why_empty(window))
    kept = reduce_to(x, block.values, points)
    shown = block.part(kept)
    columns = _columns(axis, shown, x[kept], form)
    return found | columns | {"total": len(block.steps), "returned": len(kept), "cursor": run.seq}


def _columns(axis: Axis, shown: Block, x: Floats, form: Format) -> dict[str, Any]:
    x = x.round(DECIMALS[axis]) if axis in DECIMALS else x
    if form == "typed":
        columns: dict[str, Any] = {"step": typed(shown.steps), "value": typed(shown.values)}
        return columns | ({} if axis == "step" else {"x": typed(x)}) | {"odd": odd_points(shown.values)}
    steps = shown.steps.tolist()
    return {"step": steps, "x": steps if axis == "step" else x.tolist(), "value": json_floats(shown.values)}
