"""Groups: the mean over the runs that are alike in some fields of the spec, with a band."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from app import series
from app.api.answers import UNCHANGED, answer_json, make_tag, unchanged
from app.api.deps import Db
from app.api.series import DECIMALS
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
    read_revisions,
    why_empty,
)
from app.axes import CLOCKS, Axis, x_values
from app.chunks import Block
from app.columns import Format, json_floats, odd_points, typed
from app.errors import Invalid
from app.groups import Band, Line, Mean, field_paths, group_by, mean_line, reduce_mean
from app.models import Run
from app.smooth import smooth_values

router = APIRouter(prefix="/api/v1", tags=["series"])


@router.get("/groups", summary="Curves averaged over groups of runs", responses=UNCHANGED)
def get_groups(
    request: Request,
    db: Db,
    runs: RunIds,
    metrics: Metrics = ["train/loss"],  # noqa: B006
    by: Annotated[list[str], Query(max_length=8)] = [],  # noqa: B006
    band: Band = "std",
    x: Axis = "step",
    points: Points = 1_000,
    window: AskedWindow = NO_WINDOW,
    smooth: Smooth = 0.0,
    format: Format = "json",  # noqa: A002  # the parameter's name
) -> Response:
    """Runs that are alike in the spec fields `by` (such as `lr` or `model_options.activation`; a run without one counts
    as null) make a group; without `by`, all do. At every step that any of them has: `mean` over the `n` members with
    a finite value there, and `low` and `high` of the `band`: `std` (n - 1), `se`, `ci95` (Student's t) or `minmax`.
    One member has no spread: NaN there, except for `minmax`.

    `smooth` averages each member along its steps first, as in `GET /api/v1/series`.

    At most `points` points a group and metric, the extremes of mean and band among them; `x` is the mean of the
    members' x. `format=typed` as in `GET /api/v1/series`; `odd` lists the means that are not finite.
    """
    if x == "time":
        raise Invalid("clock times of several runs have no mean; use x=elapsed", "x")
    run_ids, names, fields = (list(dict.fromkeys(given)) for given in (runs, metrics, by))
    check_count(run_ids, names, points)
    with db.read() as s:
        rows = read_revisions(s, run_ids)
        tag = make_tag(request, [(run_id, row.revision) for run_id, row in rows.items()])
        same = unchanged(request, tag)
        if same is not None:
            return same
        members = find_runs(s, run_ids)
        asked = (NO_WINDOW if smooth else window).steps(x)
        blocks = series.read_blocks(s, run_ids, names, *asked, times=x in CLOCKS)
    _check_fields(members.values(), fields)
    found = []
    for key, ids in group_by({run_id: members[run_id].spec for run_id in run_ids}, fields):
        for name in names:
            mine = [(members[run_id], blocks[run_id, name]) for run_id in ids if (run_id, name) in blocks]
            columns = _averaged(mine, band, x, points, window, smooth, format)
            found.append(to_json({"key": key, "runs": ids, "metric": name} | columns))
    return answer_json(request, tag, {"x": x, "by": fields, "band": band}, "groups", found)


def _check_fields(runs: Iterable[Run], fields: Sequence[str]) -> None:
    """Raises: Invalid for a field that no spec of these runs has: a slip of the pen would put all in one group."""
    known = {path for run in runs for path in field_paths(run.spec)}
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known)[:40])}"
            raise Invalid(f"none of these runs has a spec field {field[:100]!r}; {hint}", "by")


def _averaged(
    members: Sequence[tuple[Run, Block]],
    band: Band,
    axis: Axis,
    points: int,
    window: Window,
    smooth: float,
    form: Format,
) -> dict[str, Any]:
    lines = []
    for run, block in members:
        x = x_values(axis, run, block)
        if x is not None:
            lines.append(Line(block.steps, x, smooth_values(block.values, smooth)))
    whole = mean_line(lines, band)
    if smooth or axis != "step":
        whole = whole.part(window.slice_of(whole.x))
    shown = reduce_mean(whole, points)
    found = _columns(axis, shown, form) | {"total": len(whole.steps), "returned": len(shown.steps)}
    if not len(whole.steps):
        found["note"] = no_axis(axis) if members and not lines else why_empty(window)
    return found


def _columns(axis: Axis, shown: Mean, form: Format) -> dict[str, Any]:
    x = shown.x.round(DECIMALS[axis]) if axis in DECIMALS else shown.x
    if form == "typed":
        columns: dict[str, Any] = {} if axis == "step" else {"x": typed(x)}
        columns |= {name: typed(getattr(shown, name)) for name in ("mean", "low", "high", "n")}
        return {"step": typed(shown.steps), **columns, "odd": odd_points(shown.mean)}
    steps = shown.steps.tolist()
    edges = {name: json_floats(getattr(shown, name)) for name in ("mean", "low", "high")}
    return {"step": steps, "x": steps if axis == "step" else x.tolist(), **edges, "n": shown.n.tolist()}
