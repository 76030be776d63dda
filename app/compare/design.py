"""The design of a comparison: groups by subject, and what else varies between them or within each alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from app.compare.facts import UNKNOWN, Gap, RunFacts, identity
from app.compare.verdict import Group

Columns = Mapping[str, Mapping[str, Any]]  # key -> run id -> value or Gap
Seeds = Literal["equal", "nested", "differ"]


def known(column: Mapping[str, Any]) -> dict[str, Any]:
    """The column without its gaps."""
    return {run: value for run, value in column.items() if not isinstance(value, Gap)}


def distinct(column: Mapping[str, Any], runs: Sequence[str] | None = None) -> set[Hashable]:
    """Stand-ins of the values (of these runs) that are known."""
    return {identity(v) for run, v in known(column).items() if runs is None or run in runs}


def group_runs(runs: Sequence[RunFacts], columns: Columns, subject: Sequence[str]) -> tuple[Group, ...]:
    """Runs by their values under the subject's keys, in the order of the runs; who is silent stays alone."""
    members: dict[Hashable, list[str]] = {}
    for run in runs:
        place = [identity(columns[key][run.id]) for key in subject]
        members.setdefault((*place, run.id if UNKNOWN in place else ""), []).append(run.id)
    groups = []
    for ids in members.values():
        values = {key: columns[key][ids[0]] for key in subject}
        seeds = {identity(v): v for run, v in known(columns["seed"]).items() if run in ids}
        groups.append(Group(known(values), tuple(ids), tuple(sorted(seeds.values(), key=_seed_order))))
    return tuple(groups)


def _seed_order(seed: Any) -> tuple[bool, float, str]:
    number = isinstance(seed, (int, float))
    return not number, float(seed) if number else 0.0, str(seed)


def split_others(
    others: Sequence[str], groups: Sequence[Group], columns: Columns
) -> tuple[list[str], list[str]]:
    """Of the differing settings beside the subject: those that confound it, and those that are crossed with it.

    A setting is crossed when each group has the same values of it, and all crossed settings together are when each
    group has the same combinations. A value that is not known proves nothing either way.
    """
    confounding = [name for name in others if _sets_differ(columns[name], groups)]
    crossed = [name for name in others if name not in confounding]
    unknown = any(value is UNKNOWN for name in crossed for value in columns[name].values())
    if crossed and not unknown and len({frozenset(_joint(g, columns, crossed)) for g in groups}) > 1:
        return list(others), []
    return confounding, crossed


def _sets_differ(column: Mapping[str, Any], groups: Sequence[Group]) -> bool:
    whole: list[set[Hashable]] = []
    part: list[set[Hashable]] = []
    for group in groups:
        values = distinct(column, group.runs)
        if values:
            (part if any(column[run] is UNKNOWN for run in group.runs) else whole).append(values)
    if not whole:
        return False
    return any(values != whole[0] for values in whole) or any(not values <= whole[0] for values in part)


def _joint(group: Group, columns: Columns, names: Sequence[str]) -> set[Hashable]:
    return {tuple(identity(columns[name][run]) for name in names) for run in group.runs}


def compare_seeds(groups: Sequence[Group], columns: Columns, crossed: Sequence[str]) -> Seeds:
    """Whether the groups have the same seeds (in each combination of the crossed settings), some lack seeds of the
    largest set, or the sets differ. Seeds that are not known count as equal: they are reported as unknown."""
    if any(value is UNKNOWN for value in columns["seed"].values()):
        return "equal"
    sets = [_joint(group, columns, [*crossed, "seed"]) for group in groups]
    largest = max(sets, key=len)
    if all(seeds == largest for seeds in sets):
        return "equal"
    return "nested" if all(seeds <= largest for seeds in sets) else "differ"
