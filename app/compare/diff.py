"""Which fields differ between the specs of several runs, and by how much numbers differ from a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.compare.facts import RunFacts, flatten, identity, same
from ml.catalog import MODELS

OPTIONS = "model_options."


@dataclass(frozen=True)
class Field:
    """One field of the specs: `field` is its path (`model_options.activation`); `values` maps the id of each run that
    has this field to its value, in the order of the runs. A run that is not in `values` has no such field."""

    field: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SpecDiff:
    """Every field of the specs stands in exactly one of the three.

    `differing`: at least two runs have it with different values. `same`: all runs have it with one value.
    `partial`: only some runs have it, and those agree (dropout, where one of the models has none).
    """

    differing: tuple[Field, ...]
    same: tuple[Field, ...]
    partial: tuple[Field, ...]


@dataclass(frozen=True)
class Delta:
    """`absolute` is the value minus the baseline's; `relative` is that divided by the baseline's size, None at zero.
    Both are None where either is no finite number."""

    absolute: float | None
    relative: float | None


def diff_specs(runs: Sequence[RunFacts]) -> SpecDiff:
    """Fields of all specs, in the order in which they first appear.

    Options of different models are not fields of each other: `dropout` of two models is compared only where both take
    the same set of options (the ResNets do).
    """
    fields: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        for name, value in flatten(run.spec).items():
            fields.setdefault((name, _owner(run, name)), {})[run.id] = value
    differing: list[Field] = []
    equal: list[Field] = []
    partial: list[Field] = []
    for (name, _), values in fields.items():
        place = differing if len({identity(v) for v in values.values()}) > 1 else equal
        if place is equal and len(values) < len(runs):
            place = partial
        place.append(Field(name, values))
    return SpecDiff(tuple(differing), tuple(equal), tuple(partial))


def _owner(run: RunFacts, name: str) -> str:
    """Whose option it is: two fields of one name are one field only with one owner."""
    if not name.startswith(OPTIONS):
        return ""
    model = str(run.spec.get("model"))
    return MODELS[model].options.__name__ if model in MODELS else model


def deltas(values: Mapping[str, Any], baseline: str) -> dict[str, Delta]:
    """How far each run's number is from the baseline's, by run id; the baseline itself is 0.

    `values` maps run ids to a metric's or a field's value; what is no finite number gives Delta(None, None).
    """
    base = _number(values.get(baseline))
    found = {}
    for run, value in values.items():
        number = _number(value)
        if number is None or base is None:
            found[run] = Delta(None, None)
        else:
            found[run] = Delta(number - base, (number - base) / abs(base) if base else None)
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def differing_fields(specs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Fields whose values are not the same in all specs, with one value a spec, in the order of the specs.

    Nested fields are named by their path (`model_options.activation`); a spec without the field has None there.
    """
    flat = [flatten(spec) for spec in specs]
    names = dict.fromkeys(name for spec in flat for name in spec)
    columns = {name: [spec.get(name) for spec in flat] for name in names}
    return {name: values for name, values in columns.items() if any(not same(v, values[0]) for v in values)}
