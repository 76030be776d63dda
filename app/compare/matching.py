"""The runs that would make a confounded comparison fair: the odd ones again, with the settings of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from app.compare.facts import RunFacts, flatten, identity
from app.compare.verdict import Group, Verdict
from ml.spec import RunSpec

MAX_NEW = 20
Obstacle = Literal["nothing", "no_subject", "external", "not_begun", "not_settable", "invalid", "too_many"]


@dataclass(frozen=True)
class Rerun:
    """One run to start: `odd` again, with `changes` taken from `reference`; `changes` maps fields to (old, new)."""

    odd: str
    reference: str
    spec: RunSpec
    changes: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Match:
    """`reruns` replace the runs in `odd`. Empty where there is an `obstacle`; `keys` are the settings that it is about.

    `obstacle`:
        "nothing"       the comparison is not confounded
        "no_subject"    several settings differ and none is the subject: choose one first
        "external"      outside scripts drove the odd runs: only they can start them again
        "not_settable"  the odd runs differ in what no spec says (`keys`): code, data; no setting is left to change
        "invalid"       the odd model or data cannot take the others' settings
        "too_many"      more than MAX_NEW runs would be needed
    With reruns, `keys` are the confounders that stay.
    """

    reruns: tuple[Rerun, ...]
    odd: tuple[str, ...]
    obstacle: Obstacle | None
    keys: tuple[str, ...] = ()


def plan_match(runs: Sequence[RunFacts], verdict: Verdict, baseline: str | None = None) -> Match:
    """What to run again. The reference is the baseline's group, else what most groups have, else the first."""
    if verdict.kind != "confounded":
        return Match((), (), "nothing")
    if not verdict.subject:
        return Match((), (), "no_subject")
    by_id = {run.id: run for run in runs}
    reference = _reference(verdict, baseline)
    signature = _signature(verdict, reference)
    odd = [group for group in verdict.groups if _signature(verdict, group) != signature]
    ids = tuple(run for group in odd for run in group.runs)
    if any(by_id[run].kind != "training" for run in ids):
        return Match((), ids, "external")
    settable = [c.key for c in verdict.confounders if _is_settable(c.key)]
    stay = tuple(c.key for c in verdict.confounders if not _is_settable(c.key))
    if not settable:
        return Match((), ids, "not_settable", stay)
    values = {c.key: c.values for c in verdict.confounders if c.key in settable}
    pairs = [pair for group in odd for pair in _pairs(group, reference, by_id)]
    if len(pairs) > MAX_NEW:
        return Match((), ids, "too_many")
    try:
        reruns = tuple(_rerun(by_id[o], r, values) for o, r in pairs)
    except ValidationError:
        return Match((), ids, "invalid", tuple(settable))
    return Match(reruns, ids, None, stay)


def _is_settable(key: str) -> bool:
    return key in RunSpec.model_fields or key.startswith("model_options.")


def _reference(verdict: Verdict, baseline: str | None) -> Group:
    for group in verdict.groups:
        if baseline in group.runs:
            return group
    common, _count = Counter(_signature(verdict, group) for group in verdict.groups).most_common(1)[0]
    return next(group for group in verdict.groups if _signature(verdict, group) == common)


def _signature(verdict: Verdict, group: Group) -> Hashable:
    """What a group has under each confounder: groups with equal signatures do not confound each other."""
    return tuple(
        frozenset(identity(c.values[run]) for run in group.runs if run in c.values)
        for c in verdict.confounders
    )


def _pairs(odd: Group, reference: Group, by_id: Mapping[str, RunFacts]) -> list[tuple[str, str]]:
    """(run to repeat, run to match it to): one for each run of the reference, with the same seed where there is one."""
    seeds = {identity(by_id[run].spec.get("seed")): run for run in reversed(odd.runs)}
    return [
        (seeds.get(identity(by_id[run].spec.get("seed")), odd.runs[i % len(odd.runs)]), run)
        for i, run in enumerate(reference.runs)
    ]


def _rerun(odd: RunFacts, reference: str, values: Mapping[str, Mapping[str, Any]]) -> Rerun:
    """Raises: ValidationError where the odd run's model or data does not take a value."""
    before = flatten(odd.spec)
    spec: dict[str, Any] = {**odd.spec, "model_options": dict(odd.spec.get("model_options") or {})}
    changes = {}
    for key, column in values.items():
        if reference not in column or identity(column[reference]) == identity(before.get(key)):
            continue
        new = column[reference]
        changes[key] = (before.get(key), new)
        if key.startswith("model_options."):
            spec["model_options"][key.removeprefix("model_options.")] = new
        else:
            spec[key] = _exact(key, new)
    return Rerun(odd.id, reference, RunSpec.model_validate(spec), changes)


def _exact(key: str, value: Any) -> Any:
    """A script's 64.0 as the whole number that the field wants; everything else as it is."""
    default = RunSpec.model_fields[key].annotation
    whole = (
        isinstance(value, float)
        and value.is_integer()
        and "int" in str(default)
        and "float" not in str(default)
    )
    return int(value) if whole else value
