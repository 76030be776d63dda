"""The runs page: all runs, live."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app import listing
from app.listing import Filter
from app.models import STATES
from app.web import presets
from app.web.contexts import RunsPage
from app.web.deps import AppSettings, Db
from app.web.forms import Choice
from app.web.i18n import _, ngettext
from app.web.render import local_url, render
from app.web.rows import make_rows, state_title
from ml.catalog import MODELS

router = APIRouter()

PAGE_ROWS = 50


@router.get("/", name="page_runs")
def runs_page(
    request: Request,
    db: Db,
    settings: AppSettings,
    text: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[str, Query(max_length=16)] = "",
    model: Annotated[str, Query(max_length=64)] = "",
    experiment: Annotated[str, Query(max_length=200)] = "",
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> Response:
    wanted = Filter(
        experiment=experiment or None,
        state=[state] if state else [],
        model=[model] if model else [],
        text=text.strip() or None,
    )
    with db.read() as s:
        runs, next_cursor = listing.list_runs(s, wanted, limit=PAGE_ROWS, cursor=cursor)
        rows = make_rows(s, runs)
        counts = listing.count_states(s)
        experiments = listing.list_experiments(s)
    filters = {"text": text, "state": state, "model": model, "experiment": experiment}
    given = {name: value for name, value in filters.items() if value}
    here = local_url(request, "page_runs")
    page = RunsPage(
        rows=rows,
        text=text,
        states=[Choice(name, f"{state_title(name)} ({counts[name]})", name == state) for name in STATES],
        models=[Choice(m.name, m.title, m.name == model) for m in MODELS.values()],
        experiments=[Choice(name, f"{name} ({count})", name == experiment) for name, count in experiments],
        filtered=bool(given),
        summary=_summary(counts),
        next_cursor_url=f"{here}?{urlencode({**given, 'cursor': next_cursor})}" if next_cursor else None,
        first_url=f"{here}?{urlencode(given)}" if cursor else None,
        presets=[] if rows or given else presets.forms(settings.datasets_dir),
        data={"refresh": cursor is None},
    )
    return render(request, page)


def _summary(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    parts = [ngettext("{n} run", "{n} runs", total).format(n=f"{total:,}")]
    for state in ("running", "queued", "failed"):
        if counts[state]:
            parts.append(_("{n} {state}").format(n=f"{counts[state]:,}", state=state_title(state)))
    return " · ".join(parts)
