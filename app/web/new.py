"""The form of a new run, and the presets."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app import submit
from app.errors import Conflict, Invalid, NotFound, TrainyardError
from app.runs import NewRun, default_name
from app.web import forms, presets
from app.web.contexts import NewPage
from app.web.deps import AppSettings, Db, Posted
from app.web.forms import Typed
from app.web.i18n import _, sentence
from app.web.render import app_settings, local_url, render
from ml.catalog import DATASETS, MODELS
from ml.presets import PRESETS
from ml.recipes import find_recipe
from ml.sizes import count_held_out
from ml.spec import RunSpec

router = APIRouter()


@router.get("/new", name="page_new")
def new_page(request: Request) -> Response:
    return _page(request, forms.from_query(request.query_params))


@router.post("/new", name="submit_new")
def submit_new(request: Request, db: Db, settings: AppSettings, posted: Posted) -> Response:
    typed = forms.from_post(posted)
    seeds, tags = forms.read_seeds(typed), forms.read_tags(typed)
    name, experiment = forms.read_label(typed, "name"), forms.read_label(typed, "experiment")
    spec = forms.read_spec(typed)
    if spec is None or typed.errors:
        return _page(request, typed, 422)
    if seeds > 1 and experiment is None:
        experiment = _experiment_name(name or default_name(spec))
    wanted = []
    for i in range(seeds):
        one = spec.model_copy(update={"seed": (spec.seed + i) % 2**32})
        label = (
            _("{name} · seed {seed}").format(name=name[:180], seed=one.seed) if name and seeds > 1 else name
        )
        # The form's key: pressing the button twice starts the run once.
        wanted.append(
            NewRun(one, label, experiment, tags, idempotency_key=_key(posted, i) if seeds == 1 else None)
        )
    try:
        rows, _is_new = submit.create(db, settings, wanted)
    except Conflict:  # the same page sent again after a change: a new run
        rows, _is_new = submit.create(db, settings, [replace(new, idempotency_key=None) for new in wanted])
    except TrainyardError as error:
        name = (error.field or "").removeprefix("spec.")
        if name in typed.texts:
            typed.errors[name] = sentence(error.message)
        else:
            typed.message = sentence(error.message)
        return _page(request, typed, error.status)
    return RedirectResponse(_target(request, rows), 303)


def _key(posted: dict[str, str], i: int) -> str | None:
    key = posted.get("key", "")
    return f"form:{key}:{i}" if len(key) == 32 and key.isalnum() else None


def _target(request: Request, rows: list[dict[str, Any]]) -> str:
    if len(rows) == 1:
        return local_url(request, "page_run", run_id=rows[0]["id"])
    return local_url(request, "page_compare") + "?" + "&".join(f"run={row['id']}" for row in rows)


@router.post("/presets/{name}", name="start_preset")
def start_preset(request: Request, name: str, db: Db, settings: AppSettings, posted: Posted) -> Response:
    """Start all runs of a preset as one experiment, and show their comparison."""
    if name not in PRESETS:
        raise NotFound(_("there is no preset {name!r}").format(name=name))
    typed = {key.removeprefix(f"{name}."): value for key, value in posted.items()}
    try:
        preset = presets.make(name, typed, settings.datasets_dir)
    except Invalid as error:
        return _page(
            request, forms.from_query({}), 422, presets.forms(settings.datasets_dir, name, typed, error)
        )
    experiment = _experiment_name(preset.title)
    wanted = [NewRun(RunSpec.model_validate(r.spec), r.name, experiment, [preset.name]) for r in preset.runs]
    rows, _is_new = submit.create(db, settings, wanted)
    return RedirectResponse(_target(request, rows), 303)


def _experiment_name(title: str) -> str:
    return f"{title[:170]} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


def _page(
    request: Request, typed: Typed, status: int = 200, preset_forms: list[presets.PresetForm] | None = None
) -> Response:
    datasets_dir = app_settings(request).datasets_dir
    spec = forms.read_spec(Typed(dict(typed.texts)))
    page = NewPage(
        groups=forms.groups(typed, datasets_dir),
        options=forms.option_groups(typed),
        about=forms.about(typed),
        errors=len(typed.errors),
        message=typed.message,
        summary=forms.summary(spec) if spec else "",
        key=secrets.token_hex(16),
        presets=preset_forms or presets.forms(datasets_dir),
        data=_data(typed),
    )
    return render(request, page, status)


def _recipe(model: str, dataset: str) -> dict[str, Any]:
    outcome = find_recipe(model, dataset).outcome
    return {"fields": forms.recipe_texts(model, dataset), "outcome": forms.outcome_words(outcome)}


def _data(typed: Typed) -> dict[str, Any]:
    """What the script needs to fill in recipes and to say what will run."""
    return {
        "defaults": forms.defaults(),
        "models": {
            m.name: {"title": _(m.title), "recipes": {d: _recipe(m.name, d) for d in DATASETS}}
            for m in MODELS.values()
        },
        "datasets": {
            d.name: {"title": _(d.title), "train_size": d.train_size, "held_out": count_held_out(d)}
            for d in DATASETS.values()
        },
        "summary": _(
            "{model} on {data}: {epochs} × {per_epoch} steps of {batch} images, {steps} steps in all."
        ),
        "messages": {
            "number": _("must be a number"),
            "whole": _("must be a whole number"),
            "min": _("must be at least {n}"),
            "max": _("must be at most {n}"),
        },
        "given": typed.texts,
    }
