"""What runs got wrong: the page, and the panel that other pages fetch from it (static/js/wrong.js)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlmodel import Session, col, select
from starlette.responses import Response

from app.errors import NotFound
from app.evaluations import Evaluation, load_evaluations, same_set
from app.images import has_images
from app.models import Run
from app.settings import Settings
from app.web.asked import Asked, Link
from app.web.contexts import WrongPage
from app.web.deps import AppSettings, Db
from app.web.mistakes import make_panel
from app.web.render import local_url, render
from app.web.rows import distinct_names, make_rows

router = APIRouter()

MAX_RUNS = 100


@router.get("/wrong", name="page_wrong")
def wrong_page(
    request: Request,
    db: Db,
    settings: AppSettings,
    run: Annotated[list[str], Query()] = [],  # noqa: B006
) -> Response:
    with db.read() as s:
        return render(request, _read(request, s, settings, list(dict.fromkeys(run))[:MAX_RUNS]))


def _read(request: Request, s: Session, settings: Settings, asked: list[str]) -> WrongPage:
    by_id = {run.id: run for run in s.exec(select(Run).where(col(Run.id).in_(asked)))} if asked else {}
    found = [by_id[run_id] for run_id in asked if run_id in by_id]
    if not found:
        raise NotFound("there is none of the runs that the address names; add ?run= with the id of a run")
    rows = make_rows(s, found, distinct=True)
    wanted = Asked.read(request.query_params, by_id)
    evaluations = same_set(load_evaluations(s, found, wanted.at))
    link = Link(local_url(request, "page_wrong"), [run.id for run in found], wanted)
    digest = next((one.labels.val_digest for one in evaluations.values() if isinstance(one, Evaluation)), "")

    def image_url(index: int) -> str:
        return local_url(request, "get_image", digest=digest, index=index)

    if len(found) == 1:
        back_url = local_url(request, "page_run", run_id=found[0].id)
    else:
        back_url = link.elsewhere(local_url(request, "page_compare"))
    return WrongPage(
        rows=rows,
        names=distinct_names(rows),
        missing=[run_id[:50] for run_id in asked if run_id not in by_id],
        back_url=back_url,
        panel=make_panel(
            found,
            rows,
            evaluations,
            link,
            image_url if digest and has_images(settings.images_dir, digest) else None,
        ),
    )
