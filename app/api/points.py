"""Every point of some series as CSV: what a chart's button saves, and what a spreadsheet or a notebook reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from app import series
from app.api.deps import Db
from app.api.windows import NO_WINDOW, AskedWindow, Metrics, RunIds, check_count, find_runs
from app.axes import Axis, x_values
from app.chunks import Block
from app.db import Database
from app.models import Run
from app.spreadsheet import csv_line

router = APIRouter(prefix="/api/v1", tags=["series"])

HEADER = ("run", "name", "metric", "step", "time", "value")


@router.get(
    "/series.csv",
    summary="Every point of one or more series as CSV",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
def get_points(
    db: Db,
    runs: RunIds,
    metrics: Metrics = ["train/loss"],  # noqa: B006
    x: Axis = "step",
    window: AskedWindow = NO_WINDOW,
) -> StreamingResponse:
    """A line a point, nothing left out: run, its name, metric, step, time (Unix seconds), `x` where it is another axis
    (epoch, samples, elapsed), value at full precision; NaN is `nan`, infinity `inf`.
    """
    run_ids, names = list(dict.fromkeys(runs)), list(dict.fromkeys(metrics))
    check_count(run_ids, names)
    with db.read() as s:
        rows = find_runs(s, run_ids)
    lines = _lines(db, list(rows.values()), names, x, window)
    headers = {
        "content-disposition": "attachment",
        "cache-control": "no-store",
    }  # the link on the page names the file
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


def _lines(db: Database, runs: list[Run], names: list[str], axis: Axis, window: AskedWindow) -> Iterator[str]:
    """One series in memory at a time, and no read transaction while the client takes it."""
    own = axis in ("epoch", "samples", "elapsed")
    yield csv_line((*HEADER[:5], axis, HEADER[5]) if own else HEADER)
    for run in runs:
        for name in names:
            with db.read() as s:
                found = series.read_blocks(s, [run.id], [name], *window.steps(axis))
            if block := found.get((run.id, name)):
                yield _series(run, name, block, axis, window, own)


def _series(run: Run, metric: str, block: Block, axis: Axis, window: AskedWindow, own: bool) -> str:
    x = x_values(axis, run, block)
    if x is None:  # this run does not know the axis: its points still count
        x = np.full(len(block.steps), np.nan)
    elif axis != "step":
        inside = window.slice_of(x)
        block, x = block.part(inside), x[inside]
    head = csv_line((run.id, run.name, metric)).rstrip("\r\n")
    columns = [block.steps, block.times.round(6), *([x.round(6)] if own else []), block.values]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return "".join(f"{head},{','.join(map(repr, row))}\r\n" for row in rows)
