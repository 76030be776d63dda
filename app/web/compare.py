"""The comparison page: curves of several runs in the same charts."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from sqlmodel import Session, col, select
from starlette.responses import RedirectResponse, Response

from app import listing, series
from app.compare import differing_fields
from app.listing import Filter
from app.models import Run
from app.web import formats
from app.web.contexts import ComparePage, Difference
from app.web.deps import Db
from app.web.i18n import _
from app.web.render import local_url, render
from app.web.rows import RunRow, chart_facts, distinct_names, field_title, field_value, make_rows
from app.web.view import Known, chart_data, read_view

router = APIRouter()

MAX_RUNS = 100
PICKER_ROWS = 30
# What makes a comparison one of models: these may differ.
SUBJECT = ("model", "model_options.")


@router.get("/compare", name="page_compare")
def compare_page(
    request: Request,
    db: Db,
    run: Annotated[list[str], Query(max_length=MAX_RUNS)] = [],  # noqa: B006
    experiment: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    with db.read() as s:
        if experiment is not None and not run:
            members, _more = listing.list_runs(
                s, Filter(experiment=experiment, sort="created"), limit=MAX_RUNS
            )
            query = urlencode([("run", member.id) for member in members])
            return RedirectResponse(f"{local_url(request, 'page_compare')}?{query}", 303)
        return render(request, _read(request, s, list(dict.fromkeys(run))))


def _read(request: Request, s: Session, asked: list[str]) -> ComparePage:
    by_id = {run.id: run for run in s.exec(select(Run).where(col(Run.id).in_(asked)))} if asked else {}
    found = [by_id[run_id] for run_id in asked if run_id in by_id]
    rows = make_rows(s, found, distinct=True)
    picker = [] if found else make_rows(s, listing.list_runs(s, Filter(), limit=PICKER_ROWS)[0])
    differing = differing_fields([run.spec for run in found])
    kind, verdict = _verdict(found, differing)
    lines = _chart_runs(s, found, rows)
    metrics = [metric for line in lines for metric in line["metrics"]]
    view = read_view(request.query_params, Known.of(found, metrics), also=["experiment"])
    return ComparePage(
        rows=rows,
        names=distinct_names(rows),
        missing=[run_id[:50] for run_id in asked if run_id not in by_id],
        picker=picker,
        differences=_differences(found, differing),
        verdict=verdict,
        verdict_kind=kind,
        view=view,
        data=chart_data(view, lines),
    )


def _chart_runs(s: Session, found: list[Run], rows: list[RunRow]) -> list[dict[str, Any]]:
    summaries = series.list_summaries(s, [run.id for run in found])
    return [
        chart_facts(run, row, listing.summary(summaries[run.id])) | {"label": label}
        for run, row, label in zip(found, rows, distinct_names(rows), strict=True)
    ]


def _differences(found: list[Run], differing: dict[str, list[Any]]) -> list[Difference]:
    """A line a field. Options of different models are no fields of each other: they share one line."""
    several = "model" in differing
    lines = [
        Difference(field_title(name), [field_value(name, value) for value in values])
        for name, values in differing.items()
        if not (several and name.startswith("model_options."))
    ]
    options = [formats.setting(run.spec.get("model_options")) for run in found]
    if several and len(set(options)) > 1:
        lines.append(Difference(field_title("model_options"), options))
    return lines


def _verdict(found: list[Run], differing: dict[str, list[Any]]) -> tuple[str, str]:
    """In plain words: do the runs differ in more than the model? The kind is none, same, model or more."""
    if len(found) < 2:
        return "none", ""
    others = [name for name in differing if not name.startswith(SUBJECT)]
    if not differing:
        return "same", _("These runs have the same settings: what differs is chance, or the machine.")
    if not others:
        return "model", _("Only the model differs: same data, batch size, learning rate and seed.")
    named = [_difference(name, differing[name]) for name in others]
    if not any(name.startswith(SUBJECT) for name in differing):
        return "other", _("Same model. They differ in {list}.").format(list=", ".join(named))
    return "more", _("They differ in more than the model: {list}.").format(list=", ".join(named))


def _difference(name: str, values: list[Any]) -> str:
    distinct = list(dict.fromkeys(field_value(name, value) for value in values))
    shown = " / ".join(distinct[:4]) + (" / …" if len(distinct) > 4 else "")
    return f"{field_title(name).lower()} {shown}"
