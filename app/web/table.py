"""The columns of the runs table: which, in which order they were asked for, what each shows of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import Invalid
from app.fields import HIGH_IS_GOOD, RUN_FIELDS, Field, metric_field, parse_name
from app.listing import Order, iso
from app.models import Run
from app.web import formats
from app.web.forms import Choice
from app.web.i18n import N_, _
from app.web.rows import RunRow, field_title, field_value
from ml.spec import RunSpec

DEFAULT_COLUMNS = (
    "model", "dataset", "batch_size", "lr", "optimizer", "state", "progress", "val/accuracy.max", "val/loss.last",
    "experiment", "created",
)  # fmt: skip
MAX_COLUMNS = 30
MAX_TEXT = 200
TITLES = {
    "model": N_("Model"), "dataset": N_("Dataset"), "state": N_("State"), "progress": N_("Progress"),
    "experiment": N_("Experiment"), "created": N_("Created"), "started": N_("Started"), "ended": N_("Ended"),
    "updated": N_("Updated"), "name": N_("Name"), "notes": N_("Notes"), "kind": N_("Kind"), "worker": N_("Worker"),
    "epoch": N_("Epoch"), "step": N_("Step"), "attempt": N_("Attempt"), "duration": N_("Duration"),
    "error": N_("Error"), "id": N_("Id"), "total_steps": N_("Steps in all"), "steps_per_s": N_("Steps a second"),
    "phase": N_("Phase"), "tag": N_("Tags"),
    "val/accuracy.max": N_("Best val. accuracy"), "val/loss.last": N_("Val. loss"), "batch_size": N_("Batch"),
    "lr": N_("Learn. rate"),
}  # fmt: skip
STAT_TITLES = {
    "last": N_("{metric}, last"), "min": N_("{metric}, lowest"), "max": N_("{metric}, highest"),
    "count": N_("{metric}, points"), "last_step": N_("{metric}, last step"), "min_step": N_("{metric}, step of lowest"),
    "max_step": N_("{metric}, step of highest"),
}  # fmt: skip
ALWAYS = ("name", "tag")  # in the first column, with the notes' first line
CellKind = Literal["model", "experiment", "state", "progress", "time", "number", "text"]


@dataclass(frozen=True)
class Head:
    """A column's head: `url` sorts by it, `sorted` is its aria-sort."""

    key: str
    title: str
    kind: CellKind
    url: str
    sorted: str


@dataclass(frozen=True)
class Cell:
    """`metric`, `stat` and `format` let the page follow a metric live."""

    key: str
    kind: CellKind
    title: str
    text: str
    at: str = ""
    metric: str = ""
    stat: str = ""
    format: str = ""


@dataclass(frozen=True)
class Line:
    """A run's line in the table. `tag_text` is what the tags' editor starts with."""

    run: RunRow
    cells: list[Cell]
    notes: str
    tag_text: str


@dataclass(frozen=True)
class Select:
    """A structured filter; its first choice is to have none."""

    name: str
    title: str
    choices: list[Choice]


@dataclass(frozen=True)
class ColumnChoice:
    key: str
    title: str
    shown: bool


@dataclass(frozen=True)
class ColumnGroup:
    title: str
    choices: list[ColumnChoice]


def default_fields() -> list[Field]:
    return [parse_name(name, "cols") for name in DEFAULT_COLUMNS]


def title_of(field: Field) -> str:
    if field.name in TITLES:
        return _(TITLES[field.name])
    if field.kind == "metric":
        return _(STAT_TITLES[field.stat]).format(metric=field.metric)
    if field.kind == "spec":
        return field_title(".".join(field.path))
    return field.name


def kind_of(field: Field) -> CellKind:
    if field.name in ("model", "experiment", "state", "progress"):
        return field.name  # type: ignore[return-value]  # the literals are these names
    if field.kind == "time":
        return "time"
    known = RunSpec.model_fields.get(field.name)
    is_text = field.kind in ("text", "tags") or (
        field.kind == "spec" and (known is None or known.annotation is str)
    )
    return "text" if is_text else "number"


def make_head(field: Field, order: Order, url: Callable[[str], str]) -> Head:
    """`url` gives the address of an order."""
    falls_first = field.kind in ("time", "number") or (
        field.kind == "metric" and field.stat != "min" and not _is_low(field)
    )
    is_sorted = order.field == field and order.field.name == field.name
    falling = not order.falling if is_sorted else falls_first
    now = ("descending" if order.falling else "ascending") if is_sorted else ""
    return Head(field.name, title_of(field), kind_of(field), url("-" * falling + field.name), now)


def _is_low(field: Field) -> bool:
    return "loss" in field.metric.lower()


def make_line(
    run: Run, row: RunRow, summaries: Mapping[str, Mapping[str, Any]], fields: Sequence[Field], at: float
) -> Line:
    cells = [_cell(field, run, row, summaries, at) for field in fields]
    return Line(row, cells, run.notes, ", ".join(run.tags))


def _cell(field: Field, run: Run, row: RunRow, summaries: Mapping[str, Mapping[str, Any]], at: float) -> Cell:
    key, kind, title = field.name, kind_of(field), title_of(field)
    if field.kind == "metric":
        value, form = summaries.get(field.metric, {}).get(field.stat), _format(field)
        return Cell(key, kind, title, _figure(value, form), metric=field.metric, stat=field.stat, format=form)
    if field.kind == "spec":
        return Cell(key, kind, title, _spec_text(field, run.spec))
    if field.kind == "time":
        moment = getattr(run, f"{key}_at")
        return Cell(key, kind if moment else "text", title, formats.ago(moment, at), at=iso(moment) or "")
    return Cell(key, kind, title, _run_text(key, run, row))


def _format(field: Field) -> str:
    """percent for shares such as an accuracy, count for steps, number for the rest."""
    if field.stat == "count" or field.stat.endswith("_step"):
        return "count"
    words = set(re.split(r"[^a-z0-9]+", field.metric.lower()))
    return "percent" if words & {"accuracy", "acc"} & HIGH_IS_GOOD else "number"


def _figure(value: float | None, form: str) -> str:
    if value is None:
        return formats.DASH
    if form == "count":
        return f"{int(value):,}"
    return formats.percent(value) if form == "percent" else formats.number(value)


def _spec_text(field: Field, spec: Any) -> str:
    value = spec
    for part in field.path:
        value = value.get(part) if isinstance(value, dict) else None
    known = ".".join(field.path)
    return formats.DASH if value is None and known not in spec else field_value(known, value)


def _run_text(key: str, run: Run, row: RunRow) -> str:
    if key == "duration":
        return (
            formats.duration((run.ended_at or run.updated_at) - run.started_at)
            if run.started_at
            else formats.DASH
        )
    texts = {
        "model": row.model,
        "dataset": row.dataset,
        "state": row.state_title,
        "progress": row.progress_text,
    }
    if key in texts:
        return texts[key]
    if key == "tag":
        return ", ".join(run.tags)
    value = getattr(run, {"steps_per_s": "step_rate"}.get(key, key))
    if isinstance(value, int | float):
        return formats.number(value) if isinstance(value, float) else f"{value:,}"
    return str(value)[:200] if value else formats.DASH


def chooser(shown: Sequence[Field], params: Sequence[str], metrics: Sequence[str]) -> list[ColumnGroup]:
    """What can be chosen: the run's own, settings, metrics; `params` and `metrics` are names that recent runs have."""
    own = [name for name in RUN_FIELDS if name not in ALWAYS]
    settings = [name for name in RunSpec.model_fields if name not in ("model", "dataset", "model_options")]
    figures = [metric_field(name, stat).name for name in metrics for stat in ("last", "min", "max")]
    names = {field.name for field in shown}
    groups = []
    for title, offered in ((_("Run"), own), (_("Settings"), [*settings, *params]), (_("Metrics"), figures)):
        fields = {field.name: field for field in map(_known, offered) if field is not None}
        fields |= {
            field.name: field for field in shown if _group(field) == title and field.name not in fields
        }
        choices = [ColumnChoice(key, title_of(field), key in names) for key, field in fields.items()]
        groups.append(ColumnGroup(title, choices))
    return [group for group in groups if group.choices]


def _known(name: str) -> Field | None:
    """The field of a name that a script may have made up; None where it cannot be written as a column."""
    try:
        return parse_name(name, "cols")
    except Invalid:
        return None


def _group(field: Field) -> str:
    return {"spec": _("Settings"), "metric": _("Metrics")}.get(field.kind, _("Run"))
