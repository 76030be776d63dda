"""Changing what runs are called, one by one or many at once, for those without JavaScript too."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app import bulk, listing, runs
from app.access import Caller
from app.bulk import Action, Outcome
from app.errors import Invalid
from app.scopes import Scope
from app.web import forms
from app.web.contexts import BulkPage, EditPage, Fact
from app.web.deps import AppSettings, Db, Posted, PostedLists
from app.web.forms import Field, Typed
from app.web.i18n import _, ngettext, sentence
from app.web.render import caller, database, local_url, render
from app.web.rows import make_rows

router = APIRouter()

MAX_NOTES = 10_000
MAX_RUNS = 1_000


@router.get("/runs/{run_id}/edit", name="page_edit")
def edit_page(request: Request, run_id: str, db: Db) -> Response:
    with db.read() as s:
        run = runs.get_run(s, run_id)
    texts = {
        "name": run.name,
        "experiment": run.experiment or "",
        "tags": ", ".join(run.tags),
        "notes": run.notes,
    }
    return _edit_page(request, run_id, run.name, Typed(texts))


@router.post("/runs/{run_id}/edit", name="save_edit")
def save_edit(request: Request, run_id: str, db: Db, posted: Posted) -> Response:
    typed = Typed({name: posted.get(name, "") for name in ("name", "experiment", "tags", "notes")})
    name, experiment = forms.read_label(typed, "name"), forms.read_label(typed, "experiment")
    tags, notes = forms.read_tags(typed), typed.texts["notes"].replace("\r\n", "\n")
    if name is None:
        typed.errors.setdefault("name", _("is required"))
    if len(notes) > MAX_NOTES:
        typed.errors["notes"] = _("must have at most {n} characters").format(n=f"{MAX_NOTES:,}")
    for field, text in typed.texts.items():
        if "\0" in text:
            typed.errors[field] = _("must not contain NUL characters")
    if typed.errors:
        return _edit_page(request, run_id, typed.texts["name"], typed, 422)
    with db.begin() as s:
        runs.edit_run(s, run_id, name=name, notes=notes, tags=tags, experiment=experiment or "")
    return RedirectResponse(local_url(request, "page_run", run_id=run_id), 303)


def _edit_page(request: Request, run_id: str, name: str, typed: Typed, status: int = 200) -> Response:
    titles = {
        "name": (_("Name"), ""),
        "experiment": (_("Experiment"), ""),
        "tags": (_("Tags"), _("Separated by commas.")),
    }
    fields = [
        Field(
            name=key,
            title=title,
            help=text,
            kind="text",
            value=typed.texts[key],
            error=typed.errors.get(key, ""),
        )
        for key, (title, text) in titles.items()
    ]
    page = EditPage(run_id, name, fields, typed.texts["notes"], typed.errors.get("notes", ""))
    return render(request, page, status)


# -- many at once -----------------------------------------------------------------------------------------------------


@router.get("/bulk", name="page_bulk")
def bulk_page(
    request: Request,
    action: Action,
    run: Annotated[list[str], Query(max_length=MAX_RUNS)] = [],  # noqa: B006
) -> Response:
    """Asks before anything is done."""
    return _bulk_page(request, action, run)


@router.post("/bulk", name="do_bulk")
def do_bulk(request: Request, db: Db, settings: AppSettings, posted: PostedLists) -> Response:
    def last(name: str) -> str:
        return posted.get(name, [""])[-1]

    action, ids = last("action"), posted.get("run", [])[:MAX_RUNS]
    if action not in ("cancel", "delete", "tag"):
        raise Invalid("there is no such action; choose cancel, delete or tag", "action")
    add, remove = (Typed({"tags": last(name)}) for name in ("add", "remove"))
    given = forms.read_tags(add), forms.read_tags(remove)
    error = next(iter([*add.errors.values(), *remove.errors.values()]), "")
    if action == "tag" and not any(given):
        error = error or _("Write a tag to add or to remove.")
    if error or not ids:
        return _bulk_page(
            request, action, ids, add=last("add"), remove=last("remove"), error=error or _("Choose a run.")
        )
    cast(Caller, caller(request)).need(Scope.ADMIN if action == "delete" else Scope.SUBMIT)
    outcome = bulk.act(db, settings, ids, action, add=given[0], remove=given[1])  # type: ignore[arg-type]
    return _bulk_page(request, action, [], outcome=outcome)


def _bulk_page(
    request: Request,
    action: str,
    ids: list[str],
    *,
    add: str = "",
    remove: str = "",
    error: str = "",
    outcome: Outcome | None = None,
) -> Response:
    titles = {
        "cancel": (
            _("Cancel these runs?"),
            _("Those that run stop within seconds; what they measured stays."),
            _("Cancel the runs"),
        ),
        "delete": (
            _("Delete these runs?"),
            _("With everything they measured. This cannot be undone."),
            _("Delete the runs"),
        ),
        "tag": (_("Tag these runs"), _("Tags are added to those that a run has already."), _("Tag the runs")),
    }
    title, text, button = titles[action]
    failed = outcome.failed if outcome else []
    with database(request).read() as s:
        rows = make_rows(s, listing.get_runs(s, list(dict.fromkeys(ids))[:MAX_RUNS]))
        names = {run.id: run.name for run in listing.get_runs(s, [failure.run for failure in failed])}
    page = BulkPage(
        title=title,
        text=text,
        button=button,
        action=action,
        rows=rows,
        add=add,
        remove=remove,
        error=error or ("" if rows or outcome else _("None of these runs is here any more.")),
        outcome=_done(action, len(outcome.done)) if outcome else "",
        failures=[
            Fact(
                names.get(one.run, one.run),
                sentence(one.message),
                local_url(request, "page_run", run_id=one.run),
            )
            for one in failed
        ],
    )
    return render(request, page, 422 if error else 200)


def _done(action: str, count: int) -> str:
    texts = {
        "cancel": ngettext(
            "{n} run is canceled or asked to stop.", "{n} runs are canceled or asked to stop.", count
        ),
        "delete": ngettext("{n} run is deleted.", "{n} runs are deleted.", count),
        "tag": ngettext("{n} run is tagged.", "{n} runs are tagged.", count),
    }
    return texts[action].format(n=count)
