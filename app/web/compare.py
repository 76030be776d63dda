"""The comparison page: is it fair, the curves, what the seeds show, the figures side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from sqlmodel import Session
from starlette.datastructures import QueryParams
from starlette.responses import RedirectResponse, Response, StreamingResponse

from app import listing
from app.compare import facts_of, judge
from app.listing import Filter
from app.models import Run
from app.results import Result, read_results
from app.web import sweep
from app.web.asked import NAMES as WRONG
from app.web.contexts import ComparePage, Pair
from app.web.deps import Db
from app.web.download import summary_csv
from app.web.forms import Choice
from app.web.i18n import _
from app.web.render import local_url, render
from app.web.rows import RunRow, chart_facts, distinct_names, make_rows
from app.web.specs import make_specs
from app.web.statistics import make_statistics, read_choice
from app.web.summary import make_table
from app.web.verdict import make_banner
from app.web.view import NAMES, Known, chart_data, read_view

router = APIRouter()

MAX_RUNS = 100
PICKER_ROWS, PICKER_EXPERIMENTS = 30, 12
MAX_PAIRS = 500
PARAMETERS = (
    "experiment",
    "sort",
    "cols",
    "metric",
    "at",
    *sweep.PARAMETERS,
    *WRONG,
)  # beside those of app.web.view


@router.get("/compare", name="page_compare")
def compare_page(
    request: Request,
    db: Db,
    run: Annotated[list[str], Query()] = [],  # noqa: B006
    experiment: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    with db.read() as s:
        if experiment is not None and not run:
            return RedirectResponse(_members_url(request, s, experiment), 303)
        read = _read(s, [run_id for run_id in dict.fromkeys(run) if run_id], experiment)
    return render(request, _page(request, read))  # the database is free while the statistics are worked out


@router.get("/compare.csv", name="compare_csv")
def compare_csv(db: Db, run: Annotated[list[str], Query()] = []) -> Response:  # noqa: B006
    with db.read() as s:
        found = listing.get_runs(s, list(dict.fromkeys(run))[:MAX_RUNS])
        results = read_results(s, found)
    headers = {"content-disposition": 'attachment; filename="comparison.csv"', "cache-control": "no-store"}
    return StreamingResponse(
        summary_csv(found, results), media_type="text/csv; charset=utf-8", headers=headers
    )


def _members_url(request: Request, s: Session, experiment: str) -> str:
    """The comparison of an experiment's runs, which it goes on naming where it has more than a page shows."""
    members, more = listing.list_runs(s, Filter(experiment=experiment, sort="created"), limit=MAX_RUNS)
    others = [pair for pair in request.query_params.multi_items() if pair[0] not in ("run", "experiment")]
    query = (
        [("run", member.id) for member in members] + ([("experiment", experiment)] if more else []) + others
    )
    return f"{local_url(request, 'page_compare')}?{urlencode(query)}"


@dataclass(frozen=True)
class _Read:
    """What the page needs of the database. `members`: how many runs the experiment has that the address names."""

    asked: list[str]
    found: list[Run]
    rows: list[RunRow]
    results: dict[str, Result]
    picker: list[RunRow]
    experiments: list[tuple[str, int]]
    members: int


def _read(s: Session, asked: list[str], experiment: str | None) -> _Read:
    found = listing.get_runs(s, asked[:MAX_RUNS])
    return _Read(
        asked=asked,
        found=found,
        rows=make_rows(s, found, distinct=True),
        results=read_results(s, found),
        picker=[] if found else make_rows(s, listing.list_runs(s, Filter(), limit=PICKER_ROWS)[0]),
        experiments=[] if found else listing.list_experiments(s)[:PICKER_EXPERIMENTS],
        members=listing.count_runs(s, Filter(experiment=experiment)) if experiment else 0,
    )


def _page(request: Request, read: _Read) -> ComparePage:
    query, found, rows, results = request.query_params, read.found, read.rows, read.results
    names = distinct_names(rows)
    by_id = {run.id: name for run, name in zip(found, names, strict=True)}
    metrics = {metric for result in results.values() for metric in result.metrics}
    view = read_view(query, Known.of(found, metrics), also=PARAMETERS)
    facts = [facts_of(run) for run in found]
    verdict = judge(facts, view.group)
    table = make_table(
        found,
        rows,
        names,
        results,
        baseline=view.baseline,
        sort=query.get("sort", ""),
        everything=query.get("cols") == "all",
    )
    metric, at, misread = read_choice(query, list(results.values()))
    drawn = sweep.sweep_data(
        found, rows, names, results, lambda run_id: local_url(request, "page_run", run_id=run_id)
    )
    notices = [*_too_many(query, read), *table.notices, *misread]
    notices += sweep.apply_address(drawn, query) if drawn else []
    return ComparePage(
        rows=rows,
        names=names,
        missing=[run_id[:50] for run_id in read.asked[:MAX_RUNS] if run_id not in by_id],
        picker=read.picker,
        experiments=[Choice(name, f"{name} ({count})", False) for name, count in read.experiments],
        specs=make_specs(found, names, view.baseline),
        summary=table,
        csv_url=f"{local_url(request, 'compare_csv')}?{urlencode([('run', run.id) for run in found])}",
        query=_pairs(query, found),
        banner=make_banner(facts, by_id, verdict, view.baseline),
        statistics=make_statistics(facts, rows, by_id, results, verdict, (metric, at), view.baseline),
        sweep=drawn,
        view=replace(view, notices=(*view.notices, *notices)),
        data=chart_data(view, _chart_runs(found, rows, names, results)),
    )


def _pairs(query: QueryParams, found: list[Run]) -> list[Pair]:
    """The address as a form's hidden fields: the runs that there are, and every parameter that the page knows."""
    kept = [(n, v) for n, v in query.multi_items() if n != "run" and v and (n in NAMES or n in PARAMETERS)]
    return [Pair("run", run.id) for run in found] + [
        Pair(name, value[:200]) for name, value in kept[:MAX_PAIRS]
    ]


def _too_many(query: QueryParams, read: _Read) -> Iterable[str]:
    asked = len(read.asked)
    if asked > MAX_RUNS:
        text = _("The address names {n} runs; this page shows the first {most}.")
        yield text.format(n=asked, most=MAX_RUNS)
    elif read.members > asked:
        text = _("The experiment “{name}” has {n} runs; this page shows {shown} of them.")
        yield text.format(name=query.get("experiment", "")[:60], n=read.members, shown=asked)


def _chart_runs(
    found: Sequence[Run], rows: Sequence[RunRow], names: Sequence[str], results: Mapping[str, Result]
) -> list[dict[str, Any]]:
    return [
        chart_facts(run, row, results[run.id].metrics) | {"label": name}
        for run, row, name in zip(found, rows, names, strict=True)
    ]
