"""The runs that would make a confounded comparison fair: the odd ones again, with the settings of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from app.compare.facts import RunFacts, flatten, identity
from app.compare.verdict import Group, Verdict
from app.compare.words import OPTIONS
from ml.spec import TAKES_MOMENTUM, RunSpec

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
    confounders = {c.key for c in verdict.confounders}
    stay = tuple(c.key for c in verdict.confounders if not _is_settable(c.key))
    if len(stay) == len(verdict.confounders):
        return Match((), ids, "not_settable", stay)
    pairs = [pair for group in odd for pair in _pairs(group, reference, by_id, confounders)]
    if len(pairs) > MAX_NEW:
        return Match((), ids, "too_many")
    try:
        planned = [_rerun(by_id[o], by_id[r], verdict) for o, r in pairs]
        there = {run: RunSpec.read_stored(by_id[run].spec) for run in ids}
    except ValidationError:
        return Match((), ids, "invalid", tuple(c.key for c in verdict.confounders if _is_settable(c.key)))
    reruns = tuple(rerun for rerun in planned if rerun.spec not in there.values())
    wanted = [rerun.spec for rerun in planned]
    return Match(reruns, tuple(run for run in ids if there[run] not in wanted), None, stay)


def _is_settable(key: str) -> bool:
    return key in RunSpec.model_fields or key.startswith(OPTIONS)


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


def _pairs(
    odd: Group, reference: Group, by_id: Mapping[str, RunFacts], confounders: Collection[str]
) -> list[tuple[str, str]]:
    """(run to repeat, run to match it to): for each run of the reference the odd one that is most like it otherwise."""

    def distance(run: str, other: str) -> int:
        a, b = flatten(by_id[run].spec), flatten(by_id[other].spec)
        return sum(
            identity(a.get(key)) != identity(b.get(key)) for key in (a.keys() | b.keys()) - set(confounders)
        )

    return [(min(odd.runs, key=lambda run: distance(run, other)), other) for other in reference.runs]


def _rerun(odd: RunFacts, reference: RunFacts, verdict: Verdict) -> Rerun:
    """The reference's settings with the odd run's subject: equal in everything else, seeds and crossed settings too.

    Raises: ValidationError where the odd run's model or data does not take a value.
    """
    spec = (
        _as_reference(odd, reference, verdict)
        if reference.kind == "training"
        else _as_told(odd, reference, verdict)
    )
    made = RunSpec.model_validate(spec)
    before, after = flatten(odd.spec), flatten(made.model_dump())
    changes = {
        key: (before.get(key), value)
        for key, value in after.items()
        if identity(value) != identity(before.get(key))
    }
    return Rerun(odd.id, reference.id, made, changes)


def _as_reference(odd: RunFacts, reference: RunFacts, verdict: Verdict) -> dict[str, Any]:
    source = odd if "model" in verdict.subject else reference
    spec: dict[str, Any] = {**reference.spec, "model_options": dict(source.spec.get("model_options") or {})}
    before = flatten(odd.spec)
    for key in verdict.subject:
        if key in RunSpec.model_fields and key != "model_options":
            spec[key] = odd.spec.get(key, RunSpec.model_fields[key].default)
        elif key.startswith(OPTIONS) and key in before:
            spec["model_options"][key.removeprefix(OPTIONS)] = before[key]
    if spec.get("optimizer", "sgd") not in TAKES_MOMENTUM:
        spec["nesterov"] = False  # the reference's, of another optimizer
    if any(confounder.key == "precision" for confounder in verdict.confounders):
        spec["precision"] = reference.resolved.get(
            "precision", spec.get("precision", "auto")
        )  # what auto came to
    return spec


def _as_told(odd: RunFacts, reference: RunFacts, verdict: Verdict) -> dict[str, Any]:
    """After an outside script, which says only what it says: the confounders, in our words."""
    spec: dict[str, Any] = {**odd.spec, "model_options": dict(odd.spec.get("model_options") or {})}
    for cause in verdict.confounders:
        if reference.id not in cause.values or not _is_settable(cause.key):
            continue
        if cause.key.startswith(OPTIONS):
            spec["model_options"][cause.key.removeprefix(OPTIONS)] = cause.values[reference.id]
        else:
            spec[cause.key] = _exact(cause.key, cause.values[reference.id])
    return spec


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
