"""Workers and the queue, models, the API's documentation and the icon."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from sqlmodel import Session, col, select
from starlette.responses import FileResponse, RedirectResponse, Response

from app import listing, workers
from app.compare import flatten
from app.db import now
from app.disk import describe_shortage
from app.errors import NotFound
from app.listing import Filter
from app.models import DRAIN_FINISH, DRAIN_NOW, Run, Worker
from app.settings import ROOT, Settings
from app.web import formats
from app.web.contexts import (
    DocsPage,
    Fact,
    ModelPage,
    OptionRow,
    RecipeRow,
    WaitingRow,
    WorkerRow,
    WorkersPage,
)
from app.web.deps import AppSettings, Db, Posted
from app.web.forms import Choice, choice_title, outcome_figure
from app.web.i18n import _, ngettext, sentence
from app.web.render import local_url, render
from app.web.rows import actor_title, field_title, field_value, make_rows
from ml.catalog import DATASETS, MODELS, Dataset, Model
from ml.recipes import find_recipe

router = APIRouter()


@router.get("/workers", name="page_workers")
def workers_page(request: Request, db: Db, settings: AppSettings) -> Response:
    with db.read() as s:
        at = now(s)
        present = workers.list_present(s)
        waiting = listing.list_waiting(s)
        rows = zip(waiting, make_rows(s, waiting), strict=True)
        page = WorkersPage(
            workers=[_worker(s, worker, at) for worker in present],
            waiting=[
                WaitingRow(i, row, _("waits for {time}").format(time=formats.duration(at - run.queued_at)))
                for i, (run, row) in enumerate(rows, 1)
            ],
            summary=_summary(
                sum(w.slots for w in present), sum(len(w.running) for w in present), len(waiting)
            ),
            trouble=_trouble(settings) if db.is_sqlite else "",
            data={"refresh": True},
        )
    return render(request, page)


def _trouble(settings: Settings) -> str:
    """Told by this process too: where the disk is full, a worker cannot write its own note."""
    why = describe_shortage(settings.data_dir, settings.min_free_mb)
    return _("The database needs room: {why}.").format(why=sentence(why)) if why is not None else ""


def _worker(s: Session, worker: Worker, at: float) -> WorkerRow:
    running = s.exec(select(Run).where(col(Run.id).in_(worker.running))).all() if worker.running else []
    return WorkerRow(
        name=worker.name,
        drain=worker.drain,
        leaving=_leaving(worker),
        host=worker.host,
        slots=_("{busy} of {all} busy").format(busy=len(worker.running), all=worker.slots),
        devices=", ".join(sentence(device) for device in worker.devices) or formats.DASH,
        running=make_rows(s, running),
        seen=_("seen {ago}").format(ago=formats.ago(worker.seen_at, at)),
        since=_("up for {time}").format(time=formats.duration(at - worker.started_at)),
        note=_("Starts no run: {why}.").format(why=sentence(worker.note)) if worker.note else "",
        datasets=_("Registered here: {names}").format(names=", ".join(sorted(worker.datasets)))
        if worker.datasets
        else "",
    )


def _leaving(worker: Worker) -> str:
    who = actor_title(worker.drain_by)
    if worker.drain == DRAIN_NOW:
        return _("Gives its runs back and ends; they go on elsewhere (asked by {who}).").format(who=who)
    if worker.drain == DRAIN_FINISH:
        return _("Takes no more runs, and ends when those it has are over (asked by {who}).").format(who=who)
    return ""


@router.post("/workers/{name}/drain", name="ask_drain")
def ask_drain(request: Request, name: str, db: Db, posted: Posted) -> Response:
    with db.begin() as s:
        workers.request_drain(s, name, at_once=posted.get("how") == DRAIN_NOW)
    return RedirectResponse(local_url(request, "page_workers"), 303)


def _summary(slots: int, busy: int, waiting: int) -> str:
    return " · ".join(
        (
            ngettext("{n} slot", "{n} slots", slots).format(n=slots),
            _("{n} busy").format(n=busy),
            ngettext("{n} run waits", "{n} runs wait", waiting).format(n=waiting),
        )
    )


@router.get("/models/{name}", name="page_model")
def model_page(request: Request, name: str, db: Db) -> Response:
    if name not in MODELS:
        raise NotFound(
            _("there is no model {name!r}; there are {names}").format(name=name[:64], names=", ".join(MODELS))
        )
    model = MODELS[name]
    with db.read() as s:
        rows = make_rows(s, listing.list_runs(s, Filter(model=[name]), limit=10)[0])
    page = ModelPage(
        name=name,
        title=_(model.title),
        text=_(model.summary),
        paper=model.paper,
        parameters=f"{model.parameters:,}",
        options=_options(model),
        recipe=[
            Fact(field_title(key), field_value(key, value)) for key, value in flatten(model.recipe).items()
        ],
        recipes=[_recipe(request, model, data) for data in DATASETS.values()],
        new_url=f"{local_url(request, 'page_new')}?{urlencode({'model': name})}",
        others=[Choice(m.name, m.title, m.name == name) for m in MODELS.values()],
        rows=rows,
    )
    return render(request, page)


def _options(model: Model) -> list[OptionRow]:
    parts: dict[str, dict[str, Any]] = model.options.model_json_schema()["properties"]
    return [
        OptionRow(
            title=_(part.get("title", name)),
            name=name,
            help=_(part.get("description", "")),
            values=", ".join(_(choice_title(name, value)) for value in part["enum"])
            if "enum" in part
            else _range(part),
            default=field_value(f"model_options.{name}", part.get("default")),
        )
        for name, part in parts.items()
    ]


def _range(part: dict[str, Any]) -> str:
    if part.get("type") == "boolean":
        return _("on or off")
    return _("{low} to below {high}").format(low=part.get("minimum", 0), high=part.get("exclusiveMaximum", 1))


def _recipe(request: Request, model: Model, data: Dataset) -> RecipeRow:
    recipe, own = find_recipe(model.name, data.name), flatten(model.recipe)
    changes = [
        _("{title}: {value}").format(title=field_title(key), value=field_value(key, value))
        for key, value in flatten(recipe.fields).items()
        if key not in own or own[key] != value
    ]
    outcome = recipe.outcome
    return RecipeRow(
        dataset=_(data.title),
        changes=_("; ").join(changes),
        accuracy=outcome_figure(outcome) if outcome else _("not measured"),
        time=formats.duration(outcome.cpu_s if outcome else None),
        url=f"{local_url(request, 'page_new')}?{urlencode({'model': model.name, 'dataset': data.name})}",
    )


@router.get("/docs", name="page_docs")
def docs_page(request: Request) -> Response:
    return render(request, DocsPage(local_url(request, "openapi")))


@router.get("/favicon.ico", name="favicon")
def favicon() -> Response:
    return FileResponse(ROOT / "static" / "img" / "logo.svg", media_type="image/svg+xml")
