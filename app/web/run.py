"""The page of one run, and its buttons."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.responses import RedirectResponse, Response

from app import listing, runs, series, submit
from app.compare import flatten, spec_of
from app.db import now
from app.models import CANCELED, FAILED, FINISHED, PAUSED, QUEUED, RUNNING, Run, RunEvent
from app.web import formats, forms
from app.web.asked import NAMES as WRONG
from app.web.contexts import Fact, Moment, RunPage
from app.web.deps import AppSettings, Db
from app.web.i18n import _, sentence
from app.web.render import local_url, render
from app.web.rows import actor_title, chart_facts, field_title, field_value, make_rows, state_title
from app.web.specs import ran_title, short_value
from app.web.view import Known, chart_data, read_view
from ml.spec import RunSpec

router = APIRouter()

ACTIONS = {
    QUEUED: ["cancel"],
    RUNNING: ["pause", "cancel"],
    PAUSED: ["resume", "cancel", "delete"],
    FINISHED: ["delete"],
    FAILED: ["resume", "delete"],
    CANCELED: ["resume", "delete"],
}


@router.get("/runs/{run_id}", name="page_run")
def run_page(request: Request, run_id: str, db: Db) -> Response:
    with db.read() as s:
        return render(request, _read(request, s, runs.get_run(s, run_id)))


def _read(request: Request, s: Session, run: Run) -> RunPage:
    row = make_rows(s, [run])[0]
    at = now(s)
    summaries = listing.summary(series.list_summaries(s, [run.id])[run.id])
    view = read_view(request.query_params, Known.of([run], summaries), also=WRONG)
    return RunPage(
        run=row,
        actions=allowed_actions(run),
        notes=run.notes,
        again_url=_again_url(request, run) if run.kind == "training" else None,
        spec=[Fact(field_title(name), field_value(name, value)) for name, value in flatten(run.spec).items()],
        resolved=[
            Fact(ran_title(name), short_value(name, value)) for name, value in flatten(run.resolved).items()
        ],
        moments=[_moment(event, at) for event in reversed(runs.list_events(s, run.id))],
        error=run.error and sentence(run.error),
        error_tail=run.error_tail or "",
        facts=_facts(run, at),
        view=view,
        data=chart_data(view, [chart_facts(run, row, summaries) | {"label": run.name}], single=True),
    )


def allowed_actions(run: Run) -> list[str]:
    """What the run's state allows; a request that was made already is not offered again."""
    if run.kind == "external":
        return ["cancel"] if run.state == RUNNING else ["delete"]
    actions = [*ACTIONS[run.state], "clone"]
    asked = {"cancel": run.cancel_requested, "pause": run.pause_requested or run.cancel_requested}
    return [action for action in actions if not asked.get(action)]


def _again_url(request: Request, run: Run) -> str:
    query = {name: forms.as_text(value) for name, value in flatten(spec_of(run)).items() if value is not None}
    # Not validated: its data set may have been removed since, and the form says so.
    usual = runs.default_name(RunSpec.model_construct(**run.spec))
    query |= {"name": run.name} if run.name != usual else {}
    query |= {"experiment": run.experiment} if run.experiment else {}
    query |= {"tags": ", ".join(run.tags)} if run.tags else {}
    return f"{local_url(request, 'page_new')}?{urlencode(query)}"


def _facts(run: Run, at: float) -> list[Fact]:
    """The line under the run's name."""
    facts = [Fact(_("Created"), formats.ago(run.created_at, at))]
    if run.started_at:
        facts.append(
            Fact(
                _("Took") if run.ended_at else _("Runs for"),
                formats.duration((run.ended_at or at) - run.started_at),
            )
        )
    if run.worker and run.state == RUNNING:
        facts.append(Fact(_("Worker"), run.worker))
    if run.attempt > 1:
        facts.append(Fact(_("Attempt"), str(run.attempt)))
    if run.kind == "external":
        facts.append(Fact(_("Driven by"), _("an outside script")))
    return facts


def _moment(event: RunEvent, at: float) -> Moment:
    return Moment(
        at=listing.iso(event.at) or "",
        ago=formats.ago(event.at, at),
        state=event.to_state if event.to_state != event.from_state else "",
        state_title=state_title(event.to_state),
        text=_("{reason} (by {actor})").format(reason=sentence(event.reason), actor=actor_title(event.actor))
        if _tells_more(event)
        else sentence(event.reason),
    )


def _tells_more(event: RunEvent) -> bool:
    """Whether the actor is news: the reaper is nobody, and many reasons name who did it."""
    named = re.search(rf"(?<!\w){re.escape(event.actor)}(?!\w)", event.reason)
    return event.actor != runs.REAPER and named is None


# -- buttons ----------------------------------------------------------------------------------------------------------


def _ask(change: Callable[[Session, str], Run], publish: bool = False) -> Callable[..., Response]:
    def answer(request: Request, run_id: str, db: Db) -> Response:
        with db.begin() as s:
            run = change(s, run_id)
        if publish:
            submit.publish(db, [run])
        return RedirectResponse(local_url(request, "page_run", run_id=run_id), 303)

    return answer


router.post("/runs/{run_id}/cancel", name="ask_cancel")(_ask(runs.request_cancel))
router.post("/runs/{run_id}/pause", name="ask_pause")(_ask(runs.request_pause))
router.post("/runs/{run_id}/resume", name="ask_resume")(_ask(runs.resume_run, publish=True))


@router.post("/runs/{run_id}/delete", name="ask_delete")
def delete_run(request: Request, run_id: str, db: Db, settings: AppSettings) -> Response:
    submit.delete(db, settings, run_id)
    return RedirectResponse(local_url(request, "page_runs"), 303)


@router.post("/runs/{run_id}/clone", name="ask_clone")
def clone_run(request: Request, run_id: str, db: Db, settings: AppSettings) -> Response:
    row = submit.clone(db, settings, run_id)
    return RedirectResponse(local_url(request, "page_run", run_id=row["id"]), 303)
