"""The form of a new run, made from the schema of `RunSpec` and the catalog.

What a person typed stays text until `RunSpec` itself has judged it, so that a wrong value can be shown again as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from app.labels import HIDDEN
from app.validation import spec_errors
from app.web import formats
from app.web.i18n import N_, _, sentence
from ml.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES, Dataset, Model
from ml.recipes import Outcome, find_recipe
from ml.spec import RunSpec

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (N_("Model"), ("model",)),
    (N_("Data"), ("dataset", "train_size", "val_size", "val_from", "input_scaling")),
    (N_("Optimisation"), ("epochs", "batch_size", "lr", "schedule", "optimizer", "momentum", "weight_decay")),
    (N_("Augmentation"), ("shift", "flip", "cutout")),
    (
        N_("Fine points"),
        (
            "nesterov", "warmup_epochs", "label_smoothing", "clip_norm", "ema", "patience", "patience_metric",
            "grad_norm", "on_nan",
        ),
    ),
    (N_("Arithmetic"), ("precision", "channels_last", "fused", "compile", "deterministic")),
    (N_("More"), ("seed", "device", "devices")),
)  # fmt: skip
FOLDED = ("Augmentation", "Fine points", "Arithmetic")
WORDS = {
    "standardize": N_("Standardise"),
    "unit": N_("0 to 1"),
    "raw": N_("Raw 0 to 255"),
    "test": N_("Test images"),
    "train": N_("Held-out training images"),
    "auto": N_("Automatic"),
    "fp32": "FP32",
    "bf16": "BF16",
    "cpu": "CPU",
    "cuda": "GPU (CUDA)",
    "true": N_("On"),
    "false": N_("Off"),
    "inductor": "Inductor",
    "graph": N_("CUDA graph"),
    "total": N_("Of all weights"),
    "layers": N_("Of each layer too"),
    "fail": N_("The run fails"),
    "continue": N_("Training continues"),
    "relu": "ReLU",
}
TABLES: dict[str, Mapping[str, Any]] = {
    "model": MODELS,
    "dataset": DATASETS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
USUAL_DATASET = str(RunSpec.model_fields["dataset"].default)
ENTRIES = {"name": "", "experiment": "", "tags": "", "seeds": "1"}
MAX_SEEDS = 20


@dataclass(frozen=True)
class Choice:
    value: str
    title: str
    selected: bool
    note: str = ""


@dataclass(frozen=True)
class Field:
    """One input: `kind` is select, number or text; bounds are texts for the attributes, None for no bound."""

    name: str
    title: str
    help: str
    kind: str
    value: str
    error: str = ""
    choices: tuple[Choice, ...] = ()
    minimum: str | None = None
    maximum: str | None = None
    step: str = "any"
    placeholder: str = ""
    autofocus: bool = False

    @property
    def id(self) -> str:
        return "field-" + self.name.replace(".", "-")


@dataclass(frozen=True)
class FieldGroup:
    """`folds`: it is folded away until it is wanted, or one of its fields is not as it is by default."""

    title: str
    fields: tuple[Field, ...]
    folds: bool = False
    opened: bool = False


@dataclass(frozen=True)
class OptionGroup:
    """The options of one model; of several only the chosen model's count."""

    model: str
    title: str
    summary: str
    chosen: bool
    fields: tuple[Field, ...]


@dataclass
class Typed:
    """Texts by field: spec fields, `options.<model>.<option>`, and name, experiment, tags and seeds."""

    texts: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)
    message: str = ""

    @property
    def model(self) -> str:
        return self.texts["model"]


def as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def defaults() -> dict[str, str]:
    """Every field as it is where no recipe says otherwise."""
    texts = {
        name: as_text(info.default) for name, info in RunSpec.model_fields.items() if name != "model_options"
    }
    for model in MODELS.values():
        for name, info in model.options.model_fields.items():
            texts[f"options.{model.name}.{name}"] = as_text(info.default)
        for name, value in model.recipe.get("model_options", {}).items():
            texts[f"options.{model.name}.{name}"] = as_text(value)
    return texts | ENTRIES


def recipe_texts(model: str, dataset: str) -> dict[str, str]:
    """The fields that the recipe fills in; nothing for what is not known."""
    if model not in MODELS or dataset not in DATASETS:
        return {}
    fields = find_recipe(model, dataset).fields
    return {name: as_text(value) for name, value in fields.items() if name != "model_options"}


def fresh(model: str, dataset: str) -> dict[str, str]:
    """A fresh form: what learns well with this model on this data set."""
    return defaults() | recipe_texts(model, dataset) | {"model": model, "dataset": dataset}


def from_query(query: Mapping[str, str]) -> Typed:
    """The form as `/new?model=lenet&lr=0.01&model_options.activation=relu` asks for it, with what is wrong in it."""
    model = query.get("model", "lenet")
    typed = Typed(fresh(model, query.get("dataset", USUAL_DATASET)))
    for name, value in query.items():
        place = (
            f"options.{model}.{name.removeprefix('model_options.')}"
            if name.startswith("model_options.")
            else name
        )
        if place in typed.texts:
            typed.texts[place] = value[:500]
        else:
            typed.message = _("There is no field {name!r}; it was left out.").format(name=name[:100])
    if query:
        read_spec(typed)
    return typed


def from_post(posted: Mapping[str, str]) -> Typed:
    typed = Typed(fresh(posted.get("model", "lenet"), posted.get("dataset", USUAL_DATASET)))
    typed.texts |= {name: value for name, value in posted.items() if name in typed.texts}
    return typed


def read_spec(typed: Typed) -> RunSpec | None:
    """The spec that was typed; None, with the errors filled in, when it does not hold."""
    schema = RunSpec.model_json_schema()["properties"]
    given = {
        name: _parse(typed.texts[name], part) for name, part in schema.items() if name != "model_options"
    }
    if typed.model in MODELS:
        parts = MODELS[typed.model].options.model_json_schema()["properties"]
        given["model_options"] = {
            name: _parse(typed.texts[f"options.{typed.model}.{name}"], part) for name, part in parts.items()
        }
    missing = [name for name, value in given.items() if value is None and "anyOf" not in schema[name]]
    typed.errors |= {name: _("is required") for name in missing}
    try:
        return RunSpec.model_validate(given)
    except ValidationError as error:
        for name, message in spec_errors(error, given).items():
            place = name.replace("model_options.", f"options.{typed.model}.")
            typed.errors.setdefault(place, sentence(message))
    _check_options(typed, given)
    return None


def _check_options(typed: Typed, given: Mapping[str, Any]) -> None:
    """The options' own errors: the spec looks at them only once its other fields hold."""
    if typed.model in MODELS:
        try:
            MODELS[typed.model].options.model_validate(given["model_options"])
        except ValidationError as error:
            for name, message in spec_errors(error, given).items():
                typed.errors.setdefault(f"options.{typed.model}.{name}", sentence(message))


def _parse(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that the text stands for; the text itself when it does not fit, for the spec to refuse."""
    text = text.strip()
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    if not text:
        return None
    try:
        if "integer" in kinds:
            return int(text)
        if "number" in kinds:
            return float(text)
    except ValueError:
        return text
    if "boolean" in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def read_seeds(typed: Typed) -> int:
    text = typed.texts["seeds"].strip() or "1"
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_SEEDS:
        return int(text)
    typed.errors["seeds"] = _("must be a whole number from 1 to {n}").format(n=MAX_SEEDS)
    return 1


def read_tags(typed: Typed) -> list[str]:
    tags = list(dict.fromkeys(tag.strip() for tag in typed.texts["tags"].split(",") if tag.strip()))
    if len(tags) > 32 or any(len(tag) > 100 for tag in tags):
        typed.errors["tags"] = _("at most 32 tags of at most 100 characters")
    if any(HIDDEN.search(tag) for tag in tags):
        typed.errors["tags"] = _hidden()
    return tags


def read_label(typed: Typed, name: str) -> str | None:
    text = typed.texts[name].strip()
    if len(text) > 200:
        typed.errors[name] = _("must have at most 200 characters")
    if HIDDEN.search(text):
        typed.errors[name] = _hidden()
    return text or None


def _hidden() -> str:
    return _(
        "must not contain line breaks, other control characters or marks that turn the direction of text"
    )


# -- what the template shows ----------------------------------------------------------------------------------------


def groups(typed: Typed, datasets_dir: Path) -> list[FieldGroup]:
    schema = RunSpec.model_json_schema()["properties"]
    first = next(iter(typed.errors), None)
    usual = defaults()
    made = []
    for title, names in GROUPS:
        fields = tuple(_field(name, schema[name], typed, first, datasets_dir) for name in names)
        plain = all(field.value == usual[field.name] and not field.error for field in fields)
        made.append(FieldGroup(_(title), fields, folds=title in FOLDED, opened=not plain))
    return made


def option_groups(typed: Typed) -> list[OptionGroup]:
    first = next(iter(typed.errors), None)
    return [
        OptionGroup(
            m.name, _(m.title), _(m.summary), m.name == typed.model, _options(m.name, m.options, typed, first)
        )
        for m in MODELS.values()
    ]


def _options(model: str, options: type[BaseModel], typed: Typed, first: str | None) -> tuple[Field, ...]:
    parts = options.model_json_schema()["properties"]
    return tuple(_field(f"options.{model}.{name}", part, typed, first, None) for name, part in parts.items())


def about(typed: Typed) -> FieldGroup:
    first = next(iter(typed.errors), None)

    def entry(name: str, title: str, text: str, placeholder: str = "") -> Field:
        value, error = typed.texts[name], typed.errors.get(name, "")
        return Field(
            name, title, text, "text", value, error, placeholder=placeholder, autofocus=name == first
        )

    seeds = Field(
        "seeds", _("Repeat with seeds"), _("Starts this many runs: this seed and the next ones."), "number",
        typed.texts["seeds"], typed.errors.get("seeds", ""), (), "1", str(MAX_SEEDS), "1", autofocus=first == "seeds",
    )  # fmt: skip
    return FieldGroup(
        _("This run"),
        (
            entry("name", _("Name"), _("Empty: named after its settings.")),
            entry("experiment", _("Experiment"), _("Runs that belong together, compared on one page.")),
            entry("tags", _("Tags"), _("Separated by commas.")),
            seeds,
        ),
    )


def _field(
    name: str, schema: Mapping[str, Any], typed: Typed, first: str | None, datasets: Path | None
) -> Field:
    part = {**schema, **next((p for p in schema.get("anyOf", []) if p.get("type") != "null"), {})}
    value, error = typed.texts[name], typed.errors.get(name, "")
    title, text = _(str(schema.get("title", name))), _(str(schema.get("description", "")))
    if "enum" in part or part.get("type") == "boolean":
        values = [as_text(v) for v in part.get("enum", [True, False])]
        choices = tuple(_choice(name, v, value, datasets) for v in values)
        if value not in values:  # what was asked for stays visible beside its error
            choices = (Choice(value, value, True), *choices)
        return Field(name, title, text, "select", value, error, choices, autofocus=name == first)
    low, high = (
        part.get("minimum", part.get("exclusiveMinimum")),
        part.get("maximum", part.get("exclusiveMaximum")),
    )
    whole = part.get("type") == "integer"
    empty = {"clip_norm": _("no limit"), "patience": _("never")}.get(name, _("all"))
    placeholder = empty if "anyOf" in schema else ""
    kind = "number" if part.get("type") in ("integer", "number") and _is_number(value) else "text"
    return Field(
        name, title, text, kind, value, error, (), _bound(low), _bound(high), "1" if whole else "any",
        placeholder, name == first,
    )  # fmt: skip


def _bound(value: float | None) -> str | None:
    return None if value is None else f"{value:.10g}"


def _is_number(text: str) -> bool:
    """A number field shows nothing at all for other text, and what was typed must stay."""
    try:
        return not text.strip() or abs(float(text)) < float("inf")
    except ValueError:
        return False


def _choice(name: str, value: str, selected: str, datasets: Path | None) -> Choice:
    if name == "dataset" and datasets is not None:
        data = DATASETS[value]
        return Choice(value, _(data.title), value == selected, availability(data, datasets))
    if name == "model" and datasets is not None and value in MODELS:
        return Choice(value, _(MODELS[value].title), value == selected, weights_note(MODELS[value], datasets))
    return Choice(value, _(choice_title(name, value)), value == selected)


def choice_title(name: str, value: str) -> str:
    """The English title of one value of a closed field."""
    return str(TABLES[name][value].title) if name in TABLES else WORDS.get(value, value.capitalize())


def _closed() -> dict[str, frozenset[str]]:
    """The values of each field that has a closed list of them, options by `model_options.<name>`."""
    parts = dict(RunSpec.model_json_schema()["properties"])
    for model in MODELS.values():
        for name, part in model.options.model_json_schema()["properties"].items():
            parts[f"model_options.{name}"] = part
    found = {
        name: next((p for p in part.get("anyOf", [part]) if "enum" in p), None)
        for name, part in parts.items()
    }
    return {name: frozenset(part["enum"]) for name, part in found.items() if part is not None}


CLOSED = _closed()


def weights_note(model: Model, datasets_dir: Path) -> str:
    """What there is to know of a model's pretrained weights; nothing for one that starts at random."""
    if model.pretrained is None:
        return ""
    if model.pretrained.path_in(datasets_dir).is_file():
        return _("weights on disk")
    return _("weights will be downloaded once, {mb} MB").format(mb=model.pretrained.download_mb)


def availability(data: Dataset, datasets_dir: Path) -> str:
    if not data.files:
        return _("bundled, needs no network")
    if data.is_registered:
        here = data.on_disk(datasets_dir)
        return _("registered") if here else _("registered, but its files are not on this host")
    if data.on_disk(datasets_dir):
        return _("on disk")
    return _("will be downloaded once, {mb} MB").format(mb=data.download_mb)


def outcome_figure(outcome: Outcome) -> str:
    """Such as `99.35 ± 0.06 % (3 seeds)`."""
    if outcome.seeds == 1:
        return _("{accuracy:.2f} % (one seed)").format(accuracy=outcome.accuracy)
    return _("{accuracy:.2f} ± {deviation:.2f} % ({n} seeds)").format(
        accuracy=outcome.accuracy, deviation=outcome.deviation, n=outcome.seeds
    )


def outcome_words(outcome: Outcome | None) -> str:
    """How well a recipe learnt; nothing where that was not measured."""
    if outcome is None:
        return ""
    return _("This recipe reached {accuracy} in {time} of one CPU core.").format(
        accuracy=outcome_figure(outcome), time=formats.duration(outcome.cpu_s)
    )


def summary(spec: RunSpec) -> str:
    """One line: what will run."""
    return _(
        "{model} on {data}: {epochs} × {per_epoch} steps of {batch} images, {steps} steps in all."
    ).format(
        model=_(MODELS[spec.model].title),
        data=_(DATASETS[spec.dataset].title),
        epochs=f"{spec.epochs:,}",
        per_epoch=f"{spec.steps_per_epoch:,}",
        batch=f"{spec.batch_size:,}",
        steps=f"{spec.total_steps:,}",
    )
