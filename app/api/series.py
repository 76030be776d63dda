"""Series: windows of metrics, reduced to what a chart can show, with every extreme kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic_core import to_json
from sqlmodel import Session

from app import series
from app.api.answers import UNCHANGED, answer_json, make_tag, unchanged
from app.api.deps import Answers, Db
from app.api.windows import (
    NO_WINDOW,
    AskedWindow,
    Metrics,
    Points,
    Revision,
    RunIds,
    Smooth,
    Window,
    check_count,
    find_runs,
    no_axis,
    read_revisions,
    why_empty,
)
from app.axes import CLOCKS, Axis, x_of_steps, x_values
from app.chunks import EMPTY, Block, Floats, Ints
from app.columns import Format, json_floats, odd_points, typed
from app.models import Run
from app.outline import read_outline
from app.reduce import reduce_to
from app.smooth import smooth_values

router = APIRouter(prefix="/api/v1", tags=["series"])

Pair: TypeAlias = tuple[str, str]  # run and metric

POINTS_AT_ONCE = 2_000_000  # some 50 MB while they are reduced
LONG_POINTS = 5_000_000  # from here on an outline is cheaper than all points (as dear at 4,000,000, measured)
DECIMALS = {"epoch": 6, "time": 3, "elapsed": 3}


@router.get("/series", summary="Points of one or more series", responses=UNCHANGED)
def get_series(
    request: Request,
    db: Db,
    answers: Answers,
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

    The answer has an `ETag`; asked again with `If-None-Match`, runs that have not changed cost a 304.
    """
    run_ids, names = list(dict.fromkeys(runs)), list(dict.fromkeys(metrics))
    check_count(run_ids, names, points)
    asked = Asked(x, points, window, smooth, format)
    with db.read() as s:
        rows = read_revisions(s, run_ids)
        tag = make_tag(request, [(run_id, row.revision) for run_id, row in rows.items()])
        same = unchanged(request, tag)
        if same is not None:
            return same
        keys = {(run_id, name): (rows[run_id], name, asked) for run_id in run_ids for name in names}
        parts = {pair: answers.get(key) for pair, key in keys.items()}
        missing = [pair for pair, part in parts.items() if part is None]
        for pair, part in _encode(s, missing, rows, asked):
            answers.put(keys[pair], part)
            parts[pair] = part
    return answer_json(
        request, tag, {"x": x}, "series", [part for part in parts.values() if part is not None]
    )


class Asked(NamedTuple):
    """What is asked of every series alike."""

    axis: Axis
    points: int
    window: Window
    smooth: float
    form: Format


def _encode(
    s: Session, pairs: Sequence[Pair], rows: Mapping[str, Revision], asked: Asked
) -> Iterator[tuple[Pair, bytes]]:
    """The JSON of each of these series, read so many at a time that memory stays bounded."""
    counts = series.count_points(s, [run_id for run_id, _ in pairs], [name for _, name in pairs])
    window = NO_WINDOW if asked.smooth else asked.window
    for some in _batches(pairs, counts):
        run_ids, names = (sorted(set(column)) for column in zip(*some, strict=True))
        facts = find_runs(s, run_ids) if asked.axis != "step" else {}
        outline = None
        if counts.get(some[0], 0) > LONG_POINTS:  # then it is alone
            outline = _read_outline(s, some[0], facts.get(some[0][0]), asked)
        if outline is None:
            clock = asked.axis in CLOCKS
            blocks = series.read_blocks(s, run_ids, names, *window.steps(asked.axis), times=clock)
        else:
            blocks = {some[0]: outline[0]}
        for run_id, name in some:
            found = _one(facts.get(run_id), blocks.get((run_id, name), EMPTY), asked)
            if outline is not None:
                found["total"] = outline[1]
            about = {"run": run_id, "metric": name}
            yield (run_id, name), to_json(about | found | {"cursor": rows[run_id].seq})


def _read_outline(s: Session, pair: Pair, run: Run | None, asked: Asked) -> tuple[Block, int] | None:
    """What stands for a very long series, and how many points it stands for; None where all of it is needed."""
    if asked.smooth or asked.axis in CLOCKS:
        return None

    def x_of(steps: Ints) -> Floats:
        x = steps.astype(np.float64) if run is None else x_of_steps(asked.axis, run, steps)
        return np.empty(0) if x is None else x

    if not len(x_of(np.ones(1, np.int64))):
        return None
    return read_outline(s, *pair, x_of, asked.window, asked.points)


def _batches(pairs: Sequence[Pair], counts: Mapping[Pair, int]) -> Iterator[list[Pair]]:
    some: list[Pair] = []
    total = 0
    for pair in pairs:
        total += counts.get(pair, 0)
        if some and total > POINTS_AT_ONCE:
            yield some
            some, total = [], counts.get(pair, 0)
        some.append(pair)
    if some:
        yield some


def _one(run: Run | None, block: Block, asked: Asked) -> dict[str, Any]:
    """`run` is None where x is the step."""
    axis, points, window, smooth, form = asked
    note: dict[str, Any] = {}
    x = block.steps.astype(np.float64) if run is None else x_values(axis, run, block)
    if x is None:
        note["note"] = no_axis(axis)
        block, x = EMPTY, np.empty(0)
    if smooth:  # the average of a window's first point is made of those before it
        block = block._replace(values=smooth_values(block.values, smooth))
    if smooth or axis != "step":
        inside = window.slice_of(x)
        block, x = block.part(inside), x[inside]
    if not len(block.steps):
        note.setdefault("note", why_empty(window))
    kept = reduce_to(x, block.values, points)
    columns = _columns(axis, block.part(kept), x[kept], form)
    return note | columns | {"total": len(block.steps), "returned": len(kept)}


def _columns(axis: Axis, shown: Block, x: Floats, form: Format) -> dict[str, Any]:
    x = x.round(DECIMALS[axis]) if axis in DECIMALS else x
    if form == "typed":
        columns: dict[str, Any] = {"step": typed(shown.steps), "value": typed(shown.values)}
        return columns | ({} if axis == "step" else {"x": typed(x)}) | {"odd": odd_points(shown.values)}
    steps = shown.steps.tolist()
    return {"step": steps, "x": steps if axis == "step" else x.tolist(), "value": json_floats(shown.values)}
