"""Names of what a run has, as filters, orders and columns write them.

    name, state, tag, created, epoch, progress ...     what the run's row says
    lr, batch_size, activation, spec.my_parameter      its spec, or what an outside script said of itself
    val/accuracy.max, val/loss, "my metric".last       its metrics: last, min, max, their steps, count; best without

In quotes stands what is no plain word: `spec."my parameter"`. A metric without a slash is written `metric.loss`.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NoReturn

from sqlalchemy import ColumnElement, case, cast, func
from sqlalchemy import Text as SqlText
from sqlmodel import col

from app.errors import Invalid
from app.models import FINISHED, Run
from ml.catalog import MODELS
from ml.spec import RunSpec

Kind = Literal["text", "number", "time", "tags", "spec", "metric"]

STATS = ("last", "min", "max", "count", "last_step", "min_step", "max_step")
LOW_IS_GOOD = frozenset(["loss", "error", "err", "perplexity", "ppl", "nll", "mae", "mse", "rmse", "fid"])
HIGH_IS_GOOD = frozenset(
    ["accuracy", "acc", "precision", "recall", "f1", "auc", "map", "iou", "dice", "bleu", "score", "r2"]
)
SPEC_NUMBERS = frozenset(
    name
    for name, about in RunSpec.model_fields.items()
    if {int, float} & {about.annotation, *typing.get_args(about.annotation)}
)
OPTIONS = frozenset(name for model in MODELS.values() for name in model.options.model_fields)
MAX_NAME = 300
MAX_SEGMENTS = 8


class Segment(NamedTuple):
    """A part of a name between its dots."""

    text: str
    quoted: bool = False


@dataclass(frozen=True)
class Field:
    """What a name stands for. Two names for one thing give equal fields; `name` is the way we write it."""

    name: str
    kind: Kind
    column: Any = field(default=None, compare=False)  # of text, numbers, times: an SQL expression
    nullable: bool = field(default=True, compare=False)
    path: tuple[str, ...] = ()  # of a spec's field
    metric: str = ""
    stat: str = ""


def _progress() -> ColumnElement[float]:
    step, total = col(Run.step), col(Run.total_steps)
    return case(
        (col(Run.state) == FINISHED, 1.0), (total <= 0, None), (step >= total, 1.0), else_=step * 1.0 / total
    )


def _run_fields() -> dict[str, Field]:
    texts: dict[str, tuple[Any, bool]] = {
        "id": (Run.id, False), "name": (Run.name, False), "state": (Run.state, False), "kind": (Run.kind, False),
        "notes": (Run.notes, False), "phase": (Run.phase, False), "model": (Run.model, True),
        "dataset": (Run.dataset, True), "experiment": (Run.experiment, True), "worker": (Run.worker, True),
        "error": (Run.error, True),
    }  # fmt: skip
    numbers: dict[str, tuple[Any, bool]] = {
        "step": (Run.step, False), "epoch": (Run.epoch, False), "attempt": (Run.attempt, False),
        "total_steps": (func.nullif(col(Run.total_steps), 0), True), "progress": (_progress(), True),
        "steps_per_s": (Run.step_rate, True),
        "duration": (func.coalesce(col(Run.ended_at), col(Run.updated_at)) - col(Run.started_at), True),
    }  # fmt: skip
    times: dict[str, tuple[Any, bool]] = {
        "created": (Run.created_at, False), "updated": (Run.updated_at, False),
        "started": (Run.started_at, True), "ended": (Run.ended_at, True),
    }  # fmt: skip
    found = {"tag": Field("tag", "tags", func.nullif(cast(col(Run.tags), SqlText), "[]"))}
    kinds: tuple[tuple[Kind, dict[str, tuple[Any, bool]]], ...] = (
        ("text", texts),
        ("number", numbers),
        ("time", times),
    )
    for kind, group in kinds:
        found |= {name: Field(name, kind, column, null) for name, (column, null) in group.items()}
    return found


RUN_FIELDS = _run_fields()
SYNONYMS = {"tags": "tag", "note": "notes", "steps": "total_steps"}


def parse_name(text: str, where: str) -> Field:
    """What a name stands for that is alone in `where`, such as `sort` or `cols`. Raises: Invalid."""
    if len(text) > MAX_NAME:
        raise Invalid(f"a field's name has at most {MAX_NAME} characters", where)
    if re.search(r'[\s=<>~:()](?=(?:[^"]*"[^"]*")*[^"]*$)', text) or text.count('"') % 2:
        refuse(text, where)
    return resolve(split_name(text), text, where)


def split_name(text: str) -> list[Segment]:
    """The parts of a name between its dots; a dot in quotes is a letter."""
    segments = re.findall(r'((?:"[^"]*"|[^."])*)(?:\.|$)', text)
    if not text.endswith("."):
        segments = segments[:-1] or segments  # the pattern also finds nothing at the end
    return [Segment(part.replace('"', ""), part.startswith('"')) for part in segments]


def resolve(segments: Sequence[Segment], written: str, where: str) -> Field:
    """What the parts of a name stand for. Raises: Invalid, with the nearest name that there is."""
    texts = [segment.text for segment in segments]
    first, rest = segments[0], texts[1:]
    _check_segments(texts, written, where)
    if not first.quoted:
        plain = SYNONYMS.get(first.text, first.text)
        if not rest and plain in RUN_FIELDS:
            return RUN_FIELDS[plain]
        if rest and first.text in ("spec", "params"):
            return _spec_field(rest, written, where)
        if rest and first.text in ("metric", "summary"):
            return _metric_field(rest)
        if first.text in RunSpec.model_fields and (not rest or first.text == "model_options"):
            return _spec_field(texts, written, where)
        if not rest and first.text in OPTIONS:
            return _spec_field(["model_options", first.text], written, where)
    if first.quoted or "/" in first.text:
        return _metric_field(texts)
    return refuse(written, where)


def _check_segments(texts: Sequence[str], written: str, where: str) -> None:
    if len(texts) > MAX_SEGMENTS or any(not text or re.search(r'["\\\x00-\x1f]', text) for text in texts):
        refuse(written, where)


def refuse(written: str, where: str) -> NoReturn:
    """Raises: Invalid, with the nearest name that there is."""
    name = written[:100]
    near = difflib.get_close_matches(name, [*RUN_FIELDS, *RunSpec.model_fields, *sorted(OPTIONS)], n=1)
    if near:
        raise Invalid(f"there is no field {name}; did you mean {near[0]}?", where)
    raise Invalid(
        f"there is no field {name}; write spec.{name} for a parameter of an outside script, "
        f"metric.{name} for a metric without a slash",
        where,
    )


def _spec_field(path: Sequence[str], written: str, where: str) -> Field:
    if any(re.fullmatch(r"-?\d+", part) for part in path[1:]):
        refuse(written, where)  # a place in a list, which the databases would read differently
    if len(path) == 1 and path[0] in RunSpec.model_fields and path[0] not in RUN_FIELDS:
        name = path[0]
    else:
        name = ".".join(["spec", *map(quoted, path)])
    return Field(name, "spec", path=tuple(path))


def _metric_field(texts: Sequence[str]) -> Field:
    named = len(texts) > 1 and (texts[-1] in STATS or texts[-1] == "best")
    metric = ".".join(texts[:-1] if named else texts)
    stat = texts[-1] if named and texts[-1] != "best" else best_stat(metric)
    name = quoted(metric) if "/" in metric or '"' in quoted(metric) else f"metric.{metric}"
    return Field(f"{name}.{stat}", "metric", metric=metric, stat=stat)


def metric_field(metric: str, stat: str) -> Field:
    """One of STATS of a metric, under a name that reads back as this field."""
    return _metric_field([metric, stat])


def best_stat(metric: str) -> str:
    """Which number of a metric is its best: `min` of a loss, `max` of an accuracy, `last` where nobody can know."""
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    return "min" if words & LOW_IS_GOOD else "max" if words & HIGH_IS_GOOD else "last"


def quoted(text: str) -> str:
    """A part of a name as it is written: in quotes where it is no plain word."""
    return text if re.fullmatch(r"[\w/-]+", text) else f'"{text}"'
