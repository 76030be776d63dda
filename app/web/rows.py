"""A run as the pages show it: one row of a table, one card, one header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from app import listing
from app.actor import USER
from app.db import now
from app.models import ENDED, PAUSED, QUEUED, RUNNING, Run
from app.palette import Look, distinct_styles, look_of
from app.web import formats
from app.web.forms import CLOSED, TABLES, choice_title
from app.web.i18n import _, sentence
from ml.catalog import DATASETS, MODELS, OPTIMIZERS
from ml.sizes import count_images
from ml.spec import RunSpec


@dataclass(frozen=True)
class RunRow:
    """Ready-made texts; `colour` and `dash` are of app.palette, `percent` is None where the length is not known."""

    id: str
    name: str
    colour: int
    dash: int
    state: str
    state_title: str
    model: str
    model_name: str | None
    dataset: str
    settings: str
    about: str
    experiment: str | None
    tags: tuple[str, ...]
    percent: int | None
    progress_text: str
    eta: str
    phase: str
    best_accuracy: str
    val_loss: str
    created: str
    created_at: str
    active: bool


def actor_title(name: str) -> str:
    """Who did something, as an event or a worker's row names them."""
    return _("user") if name == USER else sentence(name)


def state_title(state: str, cancel_requested: bool = False, pause_requested: bool = False) -> str:
    if state == RUNNING and cancel_requested:
        return _("canceling")
    if state == RUNNING and pause_requested:
        return _("pausing")
    titles = {
        QUEUED: _("queued"),
        RUNNING: _("running"),
        PAUSED: _("paused"),
        "finished": _("finished"),
        "failed": _("failed"),
        "canceled": _("canceled"),
    }
    return titles[state]


def make_rows(s: Session, runs: Sequence[Run], *, distinct: bool = False) -> list[RunRow]:
    """One row a run; with `distinct`, no two look the same as long as there are enough."""
    at, styles = now(s), [run.style for run in runs]
    if distinct:
        styles = distinct_styles(styles)
    briefs = listing.briefs(s, runs)
    return [
        _row(run, brief, look_of(style), at) for run, brief, style in zip(runs, briefs, styles, strict=True)
    ]


def _row(run: Run, brief: Mapping[str, Any], look: Look, at: float) -> RunRow:
    accuracy = brief["summary"].get("val/accuracy", {}).get("max")
    loss = brief["summary"].get("val/loss", {}).get("last")
    eta = brief["eta_s"]
    return RunRow(
        id=run.id,
        name=run.name,
        colour=look.colour,
        dash=look.dash,
        state=run.state,
        state_title=state_title(run.state, run.cancel_requested, run.pause_requested),
        model=_(MODELS[run.model].title) if run.model in MODELS else run.model or formats.DASH,
        model_name=run.model if run.model in MODELS else None,
        dataset=_dataset_title(run) or formats.DASH,
        settings=_settings(run),
        about=_about(run),
        experiment=run.experiment,
        tags=tuple(run.tags),
        percent=formats.whole_percent(brief["progress"]),
        progress_text=_progress_text(run),
        eta=_("{time} left").format(time=formats.duration(eta)) if eta is not None else "",
        phase=sentence(run.phase) if run.phase != "training" else "",
        best_accuracy=formats.percent(accuracy),
        val_loss=formats.number(loss),
        created=formats.ago(run.created_at, at),
        created_at=listing.iso(run.created_at) or "",
        active=run.state not in ENDED,
    )


def _settings(run: Run) -> str:
    """Batch size, learning rate and optimizer, in a few words."""
    spec = run.spec
    optimizer = spec.get("optimizer")
    parts = [
        (_("bs {value}"), spec.get("batch_size")),
        (_("lr {value}"), spec.get("lr")),
        ("{value}", OPTIMIZERS[optimizer].title if optimizer in OPTIMIZERS else optimizer),
    ]
    return " · ".join(text.format(value=formats.setting(value)) for text, value in parts if value is not None)


def _about(run: Run) -> str:
    """Model (where the catalog has no page for it), dataset and settings, as far as they are known."""
    model = None if run.model in MODELS else run.model
    return " · ".join(part for part in (model, _dataset_title(run), _settings(run)) if part)


def _dataset_title(run: Run) -> str | None:
    """The name alone where the data set is not known here any more, or never was."""
    data = DATASETS.get(run.dataset or "")
    return run.dataset if data is None else _(data.title)


def _progress_text(run: Run) -> str:
    if not run.total_steps:
        return _("step {step}").format(step=f"{run.step:,}")
    return _("{step} of {total} steps").format(step=f"{run.step:,}", total=f"{run.total_steps:,}")


def chart_facts(run: Run, row: RunRow, summaries: Mapping[str, Any]) -> dict[str, Any]:
    """What the browser needs to draw a run and to turn steps into epochs, images or time (see app.axes)."""
    spec, data = run.spec, DATASETS.get(run.dataset or "")
    return {
        "id": run.id,
        "name": run.name,
        "colour": row.colour,
        "dash": row.dash,
        "state": run.state,
        "attempt": run.attempt,
        "seq": run.seq,
        "steps_per_epoch": run.steps_per_epoch or _positive(spec.get("steps_per_epoch")),
        "batch_size": _positive(spec.get("batch_size")),
        "images": _positive(run.resolved.get("train_images")) or _images(run),
        "began": run.started_at or run.created_at,
        "metrics": list(summaries),
        "classes": _positive(run.resolved.get("classes")) or (data.classes if data else None),
    }


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _images(run: Run) -> int | None:
    if run.kind != "training":
        return None
    data = DATASETS.get(run.spec["dataset"])
    return count_images(data, run.spec).train if data else _positive(run.spec.get("train_size"))


def field_title(name: str) -> str:
    """The title of a spec field for people; the name itself where the spec has none."""
    if name in RunSpec.model_fields:
        return _(RunSpec.model_fields[name].title or name)
    if name.startswith("model_options."):
        option = name.removeprefix("model_options.")
        for model in MODELS.values():
            if option in model.options.model_fields:
                return _(model.options.model_fields[option].title or option)
    return name


def field_value(name: str, value: Any) -> str:
    """A spec field's value for people: titles for what is known by name, the parts of `model_options` in one line."""
    if value is None and name in ("train_size", "val_size"):
        return _("all")
    if isinstance(value, str) and (value in CLOSED.get(name, ()) or value in TABLES.get(name, ())):
        return _(choice_title(name, value))
    if name == "model_options" and isinstance(value, Mapping):
        parts = [(f"{name}.{option}", part) for option, part in value.items()]
        texts = [
            _("{title}: {value}").format(title=field_title(option), value=field_value(option, part))
            for option, part in parts
        ]
        return _("; ").join(texts) or formats.DASH
    return formats.setting(value)


def distinct_names(rows: Sequence[RunRow]) -> list[str]:
    """Names for a legend: doubles get a number."""
    seen: dict[str, int] = {}
    names = []
    for row in rows:
        seen[row.name] = seen.get(row.name, 0) + 1
        names.append(row.name if seen[row.name] == 1 else f"{row.name} ({seen[row.name]})")
    return names
