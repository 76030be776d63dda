"""Is a comparison fair: do the runs differ in what is compared, and in nothing else that matters?

See docs/decisions for what is called controlled, and why.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from app.compare.design import compare_seeds, distinct, group_runs, known, split_others
from app.compare.diff import OPTIONS
from app.compare.facts import UNKNOWN, RunFacts, identity
from app.compare.keys import IMPLIED, KEYS, MUST_KNOW, Key, Role, read_table
from app.compare.notes import make_notes
from app.compare.verdict import KeyValues, Kind, Note, Unknown, Verdict

Table = Mapping[Key, Mapping[str, Any]]


def judge(runs: Sequence[RunFacts], subject: Sequence[str] = ()) -> Verdict:
    """The verdict on a comparison of these runs (ids must be distinct).

    `subject`: keys to compare by, such as `lr`; `model` stands for its options too. By default the model where it
    differs, otherwise the one setting that differs.
    """
    if not runs:
        return Verdict("none", (), (), (), (), ())
    table = read_table(runs)
    columns = {key.name: column for key, column in table.items()}
    settings = [key.name for key in table if _is_setting(key) and _differs(key, columns)]
    chosen = _expand(subject, settings, columns) or _default_subject(settings, columns)
    groups = group_runs(runs, columns, chosen or settings)
    if len(runs) == 1:
        return Verdict("single", (), (), (), (), groups)
    others = [name for name in settings if name not in chosen]
    confounding, crossed = split_others(others, groups, columns) if chosen else (others, [])
    seeds = "equal" if "seed" in chosen else compare_seeds(groups, columns, crossed)
    if seeds == "differ":
        confounding = [*confounding, "seed"]
    unknown = tuple(_find_unknown(runs, table, columns))
    notes = [Note("subject_same", name, {}) for name in subject if not _expand([name], settings, columns)]
    notes += [Note("crossed", name, known(columns[name])) for name in crossed]
    if seeds == "nested":
        notes.append(Note("unbalanced", "seed", known(columns["seed"])))
    return Verdict(
        _kind(bool(confounding), bool(unknown), bool(chosen), len(distinct(columns["seed"])) > 1),
        tuple(chosen),
        tuple(KeyValues(name, known(columns[name])) for name in confounding),
        unknown,
        (*notes, *make_notes(runs, table, settings)),
        groups,
    )


def _kind(confounded: bool, unknown: bool, subject: bool, seeds: bool) -> Kind:
    if confounded:
        return "confounded"
    if unknown:
        return "incomplete"
    return "controlled" if subject else "replicates" if seeds else "identical"


def _is_setting(key: Key) -> bool:
    return key.role in (Role.SETTING, Role.CONSEQUENCE)


def _differs(key: Key, columns: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether runs differ in it; for a consequence, runs that agree in its causes."""
    causes = [
        name
        for name in columns
        if any(name == c or (c[-1] == "." and name.startswith(c)) for c in key.causes)
    ]
    cells: dict[tuple[Hashable, ...], set[Hashable]] = {}
    for run, value in known(columns[key.name]).items():
        cell = tuple(identity(columns[cause][run]) for cause in causes)
        cells.setdefault(cell, set()).add(identity(value))
    return any(len(values) > 1 for values in cells.values())


def _expand(
    subject: Sequence[str], settings: Sequence[str], columns: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The subject's keys in which the runs differ; `model` brings its options along."""
    found = []
    for name in subject:
        wanted = [name] if name not in ("model", "model_options") else []
        if not wanted:
            wanted = [key for key in columns if key == name or key.startswith(OPTIONS)]
        found += [key for key in wanted if key in settings or len(distinct(columns.get(key, {}))) > 1]
    return list(dict.fromkeys(found))


def _default_subject(settings: list[str], columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if "model" in settings:
        return _expand(["model"], settings, columns)
    return settings if len(settings) == 1 else []


def _find_unknown(
    runs: Sequence[RunFacts], table: Table, columns: Mapping[str, Mapping[str, Any]]
) -> Iterator[Unknown]:
    """Keys that some run should have told and has not, a line for each reason."""
    for key, column in table.items():
        silent = [run for run in runs if column[run.id] is UNKNOWN]
        if not silent or not _must_be_known(key, columns):
            continue
        waiting = tuple(run.id for run in silent if run.kind == "training" and not run.resolved)
        others = tuple(run.id for run in silent if run.id not in waiting)
        if waiting:
            yield Unknown(key.name, waiting, "not_begun")
        if others:
            yield Unknown(key.name, others, "not_said")


def _must_be_known(key: Key, columns: Mapping[str, Mapping[str, Any]]) -> bool:
    if key.name == "data_digest":
        return len(distinct(columns["dataset"])) < 2  # other data, other digest: nothing to check
    if key.name in IMPLIED:  # of no interest until a run does it
        return bool(distinct(columns[key.name]) - {identity(IMPLIED[key.name])})
    return key.name in MUST_KNOW or (key.name not in KEYS and key.role is Role.SETTING)
