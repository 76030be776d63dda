"""A run as a file: everything that is known of it, every point at full resolution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from app import listing, runs, series
from app.api.deps import Db
from app.chunks import EMPTY, Block
from app.columns import json_floats
from app.db import Database
from app.errors import NotFound
from app.spreadsheet import csv_line

router = APIRouter(prefix="/api/v1", tags=["runs"])

ROWS = 10_000  # points at a time


@router.get(
    "/runs/{run_id}/export",
    summary="All points of a run as CSV or JSON",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}, "application/json": {}}}},
)
def export_run(
    run_id: str,
    db: Db,
    format: Literal["csv", "json"] = "csv",  # noqa: A002  # the parameter's name
    metric: Annotated[list[str], Query(max_length=100)] = [],  # noqa: B006
) -> StreamingResponse:
    """Every point of all metrics (or of these), nothing reduced, numbers at full precision, times in Unix seconds.

    `csv`: a line a point, `metric,step,time,value`; NaN is `nan`, infinity `inf`. `json`: the run as in `GET
    /api/v1/runs/{run_id}`, and `series`, each with its `points` as `[step, time, value]`; NaN and infinity are strings.
    """
    with db.read() as s:
        run = runs.get_run(s, run_id)
        about = {**listing.briefs(s, [run])[0], "notes": run.notes, "resolved": run.resolved}
    names = list(dict.fromkeys(metric)) or list(about["summary"])
    unknown = [name for name in names if name not in about["summary"]]
    if unknown:
        raise NotFound(f"this run has no metric {unknown[0]!r}", "metric")
    lines = _csv(db, run_id, names) if format == "csv" else _json(db, run_id, names, about)
    headers = {
        "content-disposition": f'attachment; filename="{run.id}.{format}"',
        "cache-control": "no-store",
    }
    media_type = "text/csv; charset=utf-8" if format == "csv" else "application/json"
    return StreamingResponse(lines, media_type=media_type, headers=headers)


def _read(db: Database, run_id: str, metric: str) -> Iterator[Block]:
    """One series, in parts; no transaction stays open while the client takes them."""
    with db.read() as s:
        block = series.read_blocks(s, [run_id], [metric]).get((run_id, metric), EMPTY)
    for row in range(0, len(block.steps), ROWS):
        part = slice(row, row + ROWS)
        yield Block(block.steps[part], block.times[part], block.values[part])


def _csv(db: Database, run_id: str, names: list[str]) -> Iterator[str]:
    yield csv_line(("metric", "step", "time", "value"))
    for name in names:
        first = csv_line((name,)).rstrip("\r\n")
        for part in _read(db, run_id, name):
            points = zip(part.steps.tolist(), part.times.tolist(), part.values.tolist(), strict=True)
            yield "".join(f"{first},{step},{time},{value}\r\n" for step, time, value in points)


def _json(db: Database, run_id: str, names: list[str], about: dict[str, Any]) -> Iterator[str]:
    yield f'{{"run":{_dump(about)},"series":['
    for number, name in enumerate(names):
        yield ("," if number else "") + f'{{"metric":{_dump(name)},"points":['
        comma = ""
        for part in _read(db, run_id, name):
            points = zip(part.steps.tolist(), part.times.tolist(), json_floats(part.values), strict=True)
            yield comma + _dump(list(points))[1:-1]
            comma = ","
        yield "]}"
    yield "]}"


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
