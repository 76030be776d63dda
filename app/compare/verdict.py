"""What the fairness verdict says, as data; app.compare.sentences puts it into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["none", "single", "identical", "replicates", "controlled", "confounded", "incomplete"]
Reason = Literal["not_begun", "not_said"]
NoteKind = Literal["differs", "ignored", "updates", "crossed", "unbalanced", "repeats", "subject_same"]


@dataclass(frozen=True)
class KeyValues:
    """A key and the value of each run that has one, by run id, in the order of the runs.

    None is "all" under train_size and val_size, and "none" under augmentation.
    """

    key: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Unknown:
    """A key that cannot be checked. `runs`: the ids of those that have not said it.

    `reason`: "not_begun", they have not begun and it is known once they train; "not_said", an outside script or an
    older version did not record it.
    """

    key: str
    runs: tuple[str, ...]
    reason: Reason


@dataclass(frozen=True)
class Note:
    """Something to know that does not decide the verdict. `values` is by run id, as in KeyValues.

    `kind`:
        "differs"       machine or library versions: times and last digits may differ
        "ignored"       the spec says it, but the run's optimizer does not use it
        "updates"       numbers of optimizer steps, where they follow from settings that differ
        "crossed"       a setting that varies within every group alike: no confounder, but part of the spread
        "unbalanced"    some groups lack seeds that others have
        "repeats"       the same settings and seed more than once: not independent, counted once
        "subject_same"  what was to be compared is the same in all runs: the verdict is about what differs instead
    """

    kind: NoteKind
    key: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Runs that are equal in the subject. `values`: what they have there, key -> value, without keys they do not use.

    `seeds`: the distinct known ones, sorted. Runs that do not say what they are form groups of one run.
    """

    values: Mapping[str, Any]
    runs: tuple[str, ...]
    seeds: tuple[Any, ...]


@dataclass(frozen=True)
class Verdict:
    """What the runs differ in.

    `kind`:
        "none", "single"  no run, one run: nothing to compare
        "identical"       nothing that matters differs, not even the seed
        "replicates"      only the seed differs
        "controlled"      only the subject differs; each group has the same seeds (or a part of them: see `notes`)
        "confounded"      `confounders` differ as well
        "incomplete"      as far as can be seen one of the three good kinds, but `unknown` cannot be checked
    `subject`: the keys under comparison that differ, `model` first. Empty when nothing but the seed differs, and when
        several settings differ, none of them the model: then nothing can be called the subject.
    `confounders`: settings and seeds that differ beside the subject; with an empty subject all that differ.
    `unknown`: never empty when the kind is "incomplete", and may be there with "confounded".
    `groups`: the runs by subject (by all differing settings when there is none), in the order of the runs.
    """

    kind: Kind
    subject: tuple[str, ...]
    confounders: tuple[KeyValues, ...]
    unknown: tuple[Unknown, ...]
    notes: tuple[Note, ...]
    groups: tuple[Group, ...]
