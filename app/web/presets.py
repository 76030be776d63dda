"""Presets as the pages offer them: what will start, what may be changed, how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.compare.facts import flatten
from app.errors import Invalid
from app.validation import spec_errors
from app.web import formats
from app.web.forms import CLOSED, Choice, Field, availability, choice_title
from app.web.i18n import N_, _, sentence
from app.web.rows import field_title, field_value
from ml.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES
from ml.presets import HOMEWORK, PRESETS, Preset
from ml.spec import RunSpec

DEMO_DATASETS = ("mnist", "digits")
SCALINGS = tuple(sorted(CLOSED["input_scaling"], key=("raw", "unit", "standardize").index))
TITLES = {
    "demo": N_("The demo comparison"),
    "homework": N_("The homework, to the letter"),
    "cures": N_("What lets the homework's LeNet learn"),
}
STARTS = {
    "demo": N_("Start all three"),
    "homework": N_("Start all three"),
    "cures": N_("Start all four"),
}
TIMES = {
    "demo": N_("About a minute and a half on two CPU cores."),
    "homework": N_(
        "Nearly an hour on two CPU cores; lower the epochs or the images for a first look. With sigmoid and "
        "plain SGD, LeNet stays at chance for epochs: that is the lesson."
    ),
    "cures": N_(
        "About two minutes on two CPU cores. As printed it stays at chance; each change alone cures it."
    ),
}


@dataclass(frozen=True)
class PresetRun:
    """`options` tells what is special about it."""

    name: str
    parameters: str
    options: str


@dataclass(frozen=True)
class PresetForm:
    name: str
    title: str
    time: str
    shared: str
    start: str
    runs: tuple[PresetRun, ...]
    fields: tuple[Field, ...]


def make(name: str, typed: Mapping[str, str], datasets_dir: Path) -> Preset:
    """The preset with the epochs, images, dataset or scaling that were typed. Raises: Invalid, naming the field."""
    changes: dict[str, Any] = {}
    for field in ("epochs", "train_size"):
        text = typed.get(field, "").strip()
        if text:
            if not (text.isascii() and text.isdigit()):
                raise Invalid(_("must be a whole number"), field)
            changes[field] = int(text[:12])
    if name == "demo":
        changes["dataset"] = typed.get("dataset") or "mnist"
        if changes["dataset"] not in DEMO_DATASETS:
            raise Invalid(_("choose one of {names}").format(names=", ".join(DEMO_DATASETS)), "dataset")
    if name == "homework":
        changes["input_scaling"] = typed.get("input_scaling") or HOMEWORK["input_scaling"]
        if changes["input_scaling"] not in SCALINGS:
            raise Invalid(_("choose one of {names}").format(names=", ".join(SCALINGS)), "input_scaling")
    preset = PRESETS[name](**changes)
    for fields in preset.specs:
        try:
            RunSpec.model_validate(fields)
        except ValidationError as error:
            field, message = next(iter(spec_errors(error, fields).items()))
            raise Invalid(sentence(message), field) from error
    return preset


def forms(
    datasets_dir: Path, failed: str = "", typed: Mapping[str, str] = {}, error: Invalid | None = None
) -> list[PresetForm]:
    """A form a preset; the one that `failed` keeps what was typed, with its error."""
    return [
        _form(name, typed if name == failed else {}, error if name == failed else None, datasets_dir)
        for name in PRESETS
    ]


def _form(name: str, typed: Mapping[str, str], error: Invalid | None, datasets_dir: Path) -> PresetForm:
    preset = PRESETS[name]()
    spec = preset.specs[0]
    fields = []
    if name == "demo":
        chosen = typed.get("dataset", "mnist")
        choices = tuple(
            Choice(d, _(DATASETS[d].title), d == chosen, availability(DATASETS[d], datasets_dir))
            for d in DEMO_DATASETS
        )
        fields.append(
            Field(f"{name}.dataset", _("Dataset"), "", "select", chosen, _error(error, "dataset"), choices)
        )
    images = DATASETS[spec["dataset"]].train_size if spec["train_size"] is None else spec["train_size"]
    for field, title, value, top in (
        ("epochs", _("Epochs"), spec["epochs"], "10000"),
        ("train_size", _("Training images"), images, "60000"),
    ):
        # The demo's sizes fit their dataset: left empty, they are the preset's own.
        shown = typed.get(field, "" if name == "demo" else str(value))
        hint = _("default") if name == "demo" else ""
        fields.append(
            Field(
                f"{name}.{field}", title, "", "number", shown, _error(error, field), (), "1", top, "1", hint
            )
        )
    if name == "homework":
        scaling = typed.get("input_scaling", HOMEWORK["input_scaling"])
        choices = tuple(Choice(v, _(choice_title("input_scaling", v)), v == scaling) for v in SCALINGS)
        title, wrong = field_title("input_scaling"), _error(error, "input_scaling")
        fields.append(Field(f"{name}.input_scaling", title, "", "select", scaling, wrong, choices))
    runs = tuple(
        PresetRun(
            _(run.name),
            f"{MODELS[run.spec['model']].parameters:,}",
            _changes(run.spec, spec) if name == "cures" else _options(run.spec),
        )
        for run in preset.runs
    )
    return PresetForm(
        name,
        _(TITLES.get(name, preset.title)),
        _(TIMES[name]),
        _shared(spec),
        _(STARTS[name]),
        runs,
        tuple(fields),
    )


def _options(spec: Mapping[str, Any]) -> str:
    return field_value("model_options", RunSpec.model_validate(spec).model_options)


def _changes(spec: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """What differs from the first run's spec."""
    mine, theirs = (flatten(RunSpec.model_validate(one).model_dump()) for one in (spec, first))
    parts = [
        _("{title}: {value}").format(title=field_title(name), value=field_value(name, value))
        for name, value in mine.items()
        if value != theirs[name]
    ]
    return _("; ").join(parts) or formats.DASH


def _error(error: Invalid | None, field: str) -> str:
    return error.message if error is not None and error.field == field else ""


def _shared(spec: Mapping[str, Any]) -> str:
    return _(
        "all with batch size {bs}, learning rate {lr}, {optimizer}, {schedule} schedule, seed {seed}"
    ).format(
        bs=spec["batch_size"],
        lr=formats.setting(spec["lr"]),
        optimizer=OPTIMIZERS[spec["optimizer"]].title,
        schedule=_(SCHEDULES[spec["schedule"]].title),
        seed=spec["seed"],
    )
