"""The settings of a comparison's runs side by side: what differs, and, one click away, what does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.compare import differing_fields, same, spec_of
from app.compare.words import Words, resolved_title
from app.models import Run
from app.web.i18n import _, ngettext
from app.web.rows import field_title, field_value
from ml.spec import RunSpec

MAX_COLUMNS = 6  # more runs than this, and the table turns: a row a run
NOT_SHOWN = ("mean", "std", "parameters")  # what the data came to, and what the summary has


@dataclass(frozen=True)
class Setting:
    """One run's value of a field. `odd`: not what most of the runs have, or not what the baseline has."""

    text: str
    odd: bool
    note: str


@dataclass(frozen=True)
class SettingLine:
    title: str
    values: list[Setting]


@dataclass(frozen=True)
class Common:
    """A field with the one value that all runs have."""

    title: str
    value: str


@dataclass(frozen=True)
class SpecTable:
    """`lines` differ in what was asked for, `ran` in how it was carried out; `common` is the same everywhere."""

    lines: list[SettingLine]
    ran: list[SettingLine]
    common: list[Common]
    turned: bool
    silent: list[str]  # runs without any setting


def make_specs(runs: Sequence[Run], names: Sequence[str], baseline: str | None) -> SpecTable:
    base = next((i for i, run in enumerate(runs) if run.id == baseline), None)
    specs, resolved = [spec_of(run) for run in runs], [_resolved(run) for run in runs]
    differing = differing_fields(specs)
    begun = [facts for facts in resolved if facts]  # the others do not differ: they have not told yet
    ran = {name: [facts.get(name) for facts in resolved] for name in differing_fields(begun)}
    several = "model" in differing
    lines = [
        _line(field_title(name), name, values, base)
        for name, values in differing.items()
        if not (several and name.startswith("model_options."))
    ]
    if several and any(name.startswith("model_options.") for name in differing):
        lines.append(_options(runs))
    return SpecTable(
        lines=lines,
        ran=[_line(ran_title(name), name, values, base, resolved) for name, values in ran.items()],
        common=[*_common(specs, differing), *_common(begun, ran, ran_title)],
        turned=len(runs) > MAX_COLUMNS,
        silent=[name for run, name in zip(runs, names, strict=True) if not run.spec],
    )


def _resolved(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.resolved.items() if name not in NOT_SHOWN}


def _options(runs: Sequence[Run]) -> SettingLine:
    """Options of different models are no fields of each other: they share one line, and none of them is odd."""
    texts = [_options_text(run.spec.get("model_options")) for run in runs]
    return SettingLine(field_title("model_options"), [Setting(text, False, "") for text in texts])


def _options_text(options: Any) -> str:
    return field_value("model_options", options)


def _line(
    title: str, name: str, values: Sequence[Any], base: int | None, told: Sequence[Any] | None = None
) -> SettingLine:
    """`told`: what is empty for a run that cannot have a value yet."""
    odd = odd_ones(values, base)
    if told is not None:
        odd = [is_odd and bool(facts) for is_odd, facts in zip(odd, told, strict=True)]
    reference = values[base] if base is not None and name != "seed" else None
    return SettingLine(
        title,
        [
            Setting(short_value(name, value), is_odd, _times(value, reference) if is_odd else "")
            for value, is_odd in zip(values, odd, strict=True)
        ],
    )


def odd_ones(values: Sequence[Any], base: int | None) -> list[bool]:
    """Which values are not the baseline's; without one, which are not what more than half of the runs have."""
    if base is not None:
        return [not same(value, values[base]) for value in values]
    keys = [json.dumps(value, sort_keys=True, default=str) for value in values]
    usual, count = Counter(keys).most_common(1)[0]
    return [key != usual for key in keys] if 2 * count > len(keys) else [False] * len(keys)


def _times(value: Any, reference: Any) -> str:
    """How many times the baseline's number this is."""
    numbers = all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in (value, reference)
    )
    return f"×{value / reference:.3g}" if numbers else ""


def key_title(key: str) -> str:
    """The title of a setting that was asked for, or of what it came to."""
    return (
        field_title(key)
        if key in RunSpec.model_fields or key.startswith("model_options.")
        else ran_title(key)
    )


def short_value(key: str, value: Any, *, titled: bool = False) -> str:
    """A value for people, a digest cut to what tells it from others; `titled`: with the setting's title before it."""
    is_digest = key in ("data_digest", "val_digest", "code") and isinstance(value, str)
    text = value.removeprefix("sha256:")[:12] if is_digest else field_value(key, value)
    return f"{key_title(key)} {text}" if titled else text


def _common(
    specs: Sequence[Mapping[str, Any]], differing: Mapping[str, Any], title: Any = field_title
) -> list[Common]:
    first = specs[0] if specs else {}
    found = []
    for name, value in first.items():
        if name in differing or any(key.startswith(f"{name}.") for key in differing):
            continue
        text = _options_text(value) if name == "model_options" else short_value(name, value)
        found.append(Common(title(name), text))
    return found


def ran_title(name: str) -> str:
    return resolved_title(name, _)


WORDS = Words(_, ngettext, key_title, short_value)  # for the sentences of app.compare
