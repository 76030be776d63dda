"""Points of external runs, by the hundred thousand: read without a Python object a number where that can be had."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from app import counters, runs
from app.api.bodies import MAX_BATCH, MAX_STEP, MAX_TIME, MetricsBody
from app.api.deps import Db
from app.chunks import Block, Floats, make_block
from app.db import Database
from app.errors import Invalid

router = APIRouter(prefix="/api/v1", tags=["external runs"])

Json = dict[str, Any]
NUMBERS = frozenset((int, float))
KINDS = NUMBERS | {str, type(None)}
NAMED = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf, None: np.nan}
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": MetricsBody.model_json_schema()}},
    }
}


@router.post("/runs/{run_id}/metrics", summary="Send points of an external run", openapi_extra=BODY)
async def append_metrics(run_id: str, request: Request, db: Db) -> Json:
    """Any order of steps; of points at one step the last written wins; a repeated `batch` changes nothing."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Invalid("send the points as JSON, with content-type: application/json", "content-type")
    # In a thread: a large body takes some milliseconds, in which the event streams go on.
    return await run_in_threadpool(_append, db, run_id, await request.body())


def _append(db: Database, run_id: str, body: bytes) -> Json:
    batch, points = read_batch(body)
    with db.begin() as s:
        cursor, written = runs.append_external(s, run_id, batch, points)
    count = sum(len(block.steps) for block in points.values()) if written else 0
    counters.count(counters.POINTS_INGESTED, count)
    counters.count(counters.BATCHES_INGESTED)
    return {"run": run_id, "cursor": cursor, "written": count, "duplicate": not written}


class Columns(NamedTuple):
    """What a body says, as arrays: steps [N], times [N] or None, and of each metric values [N] with what is given."""

    batch: str | None
    steps: NDArray[np.int64]
    times: Floats | None
    values: dict[str, tuple[Floats, NDArray[np.bool_] | None]]


def read_batch(body: bytes) -> tuple[str | None, dict[str, Block]]:
    """The batch id and the points of a body. Raises: RequestValidationError, which names the field; Invalid."""
    try:
        document = from_json(body)
    except ValueError as error:
        wrong = {
            "type": "json_invalid",
            "loc": ("body",),
            "msg": "",
            "input": {},
            "ctx": {"error": str(error)},
        }
        raise RequestValidationError([wrong]) from None
    columns = _read_arrays(document) or _read_slowly(document)
    times = np.full(len(columns.steps), time.time()) if columns.times is None else columns.times
    blocks = {}
    for metric, (values, given) in columns.values.items():
        if given is None:
            blocks[metric] = make_block(columns.steps, times, values)
        elif given.any():
            blocks[metric] = make_block(columns.steps[given], times[given], values[given])
    if not blocks:
        raise Invalid("every value is null; send at least one number", "values")
    return columns.batch, blocks


def _read_slowly(document: Any) -> Columns:
    """As `_read_arrays`, number by number. Raises: RequestValidationError with the place of what is wrong."""
    try:
        body = MetricsBody.model_validate(document)
    except ValidationError as error:
        wrong = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(wrong) from None
    values: dict[str, tuple[Floats, NDArray[np.bool_] | None]] = {}
    for metric, column in body.values.items():
        given = np.asarray([value is not None for value in column])
        values[metric] = (np.asarray([np.nan if v is None else float(v) for v in column]), given)
    times = None if body.time is None else np.asarray(body.time, np.float64)
    return Columns(body.batch, np.asarray(body.step, np.int64), times, values)


def _read_arrays(document: Any) -> Columns | None:
    """The body as arrays, with every check that `MetricsBody` makes; None where it is not so, or not surely so.

    Lists are checked by the set of their types and the ends of their values, and the rest by `MetricsBody` itself with
    one number in each list.
    """
    if not isinstance(document, dict) or not isinstance(document.get("values"), dict):
        return None
    step: Any = document.get("step")
    clock, named = document.get("time"), document["values"]
    columns = [step, *named.values()] + ([] if clock is None else [clock])
    if (
        not all(isinstance(column, list) for column in columns)
        or len({len(column) for column in columns}) != 1
    ):
        return None
    if not 0 < len(step) <= MAX_BATCH or set(map(type, step)) != {int}:
        return None
    first = {name: column[:1] if isinstance(column, list) else column for name, column in document.items()}
    try:
        head = MetricsBody.model_validate(
            first | {"values": {name: column[:1] for name, column in named.items()}}
        )
        steps, times = np.array(step, np.int64), None if clock is None else _numbers(clock)
        values = {name: _values(column) for name, column in named.items()}
    except (ValidationError, OverflowError, KeyError, TypeError):
        return None
    if steps.min() < 0 or steps.max() > MAX_STEP:
        return None
    if times is not None and not ((times >= 0) & (times <= MAX_TIME)).all():  # NaN is neither
        return None
    return Columns(head.batch, steps, times, values)


def _numbers(column: list[Any]) -> Floats:
    """Raises: TypeError for anything but numbers; OverflowError for an integer beyond a float's range."""
    if not NUMBERS.issuperset(map(type, column)):
        raise TypeError
    return np.array(column, np.float64)


def _values(column: list[Any]) -> tuple[Floats, NDArray[np.bool_] | None]:
    """The numbers, and where one is given (None: everywhere). Raises: as `_numbers`; KeyError for other words."""
    kinds = set(map(type, column))
    if kinds <= NUMBERS:
        return np.array(column, np.float64), None
    if not kinds <= KINDS:
        raise TypeError
    numbers = [value if type(value) in NUMBERS else NAMED[value] for value in column]
    given = np.array([value is not None for value in column]) if type(None) in kinds else None
    return np.array(numbers, np.float64), given
