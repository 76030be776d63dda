"""The fairness verdict in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.compare.sentences import lower
from app.compare.verdict import Group, KeyValues, Note, Unknown, Verdict
from app.compare.words import OPTIONS, Words

SHOWN = 3  # of several names or values
SHOWN_CAUSES = 4


def say_verdict(verdict: Verdict, words: Words) -> str:
    """One sentence: controlled, or confounded by what."""
    _ = words.translate
    if verdict.kind == "incomplete":
        return _say_incomplete(verdict, words)
    texts = {
        "none": _("There is nothing to compare."),
        "single": _("One run: there is nothing to compare it with."),
        "identical": _("The same settings and the same seed"),
        "replicates": _("Only the seed differs: what you see is chance"),
        "controlled": _("Controlled: only the {subject} differs"),
        "confounded": _("Confounded by {causes}")
        if verdict.subject
        else _("Several settings differ: {causes}"),
    }
    return texts[verdict.kind].format(subject=say_subject(verdict, words), causes=_say_causes(verdict, words))


def _say_incomplete(verdict: Verdict, words: Words) -> str:
    _ = words.translate
    if verdict.subject:
        return _("As far as is known, only the {subject} differs").format(subject=say_subject(verdict, words))
    if any(len(group.seeds) > 1 for group in verdict.groups):
        return _("As far as is known, only the seed differs")
    return _("As far as is known, these runs have the same settings")


def _say_causes(verdict: Verdict, words: Words) -> str:
    _, ngettext = words.translate, words.plural
    causes = [say_cause(cause, verdict.groups, words) for cause in verdict.confounders]
    shown, more = _(", ").join(causes[:SHOWN_CAUSES]), len(causes) - SHOWN_CAUSES
    if more <= 0:
        return shown
    text = ngettext("{causes} and {n} more setting", "{causes} and {n} more settings", more)
    return text.format(causes=shown, n=more)


def say_subject(verdict: Verdict, words: Words) -> str:
    """The titles of what is compared; the model stands for its options as well."""
    keys = [k for k in verdict.subject if not (k.startswith(OPTIONS) and "model" in verdict.subject)]
    return words.translate(", ").join(lower(words.title(key)) for key in keys)


def say_cause(cause: KeyValues, groups: Sequence[Group], words: Words) -> str:
    """`batch size 64 → 256`; seeds as the set of each group."""
    _ = words.translate
    title = lower(words.title(cause.key))
    if cause.key == "seed":
        sets = dict.fromkeys(", ".join(map(str, group.seeds)) for group in groups if group.seeds)
        return f"{title} {' / '.join(sets)}"
    values = list(dict.fromkeys(words.value(cause.key, value) for value in cause.values.values()))
    if len(values) == 2:
        return f"{title} {values[0]} → {values[1]}"
    if len(values) > SHOWN:
        return _("{setting} ({n} values)").format(setting=title, n=len(values))
    return f"{title} {_(', ').join(values)}"


def say_unknown(unknown: Sequence[Unknown], names: Mapping[str, str], words: Words) -> list[str]:
    """What cannot be checked: a sentence for each set of runs. `names` is by run id."""
    _ = words.translate
    by_reason: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in unknown:
        by_reason.setdefault((one.reason, one.runs), []).append(lower(words.title(one.key)))
    texts = {
        "not_begun": _("Known once {runs} trains: {keys}."),
        "not_said": _("Not recorded by {runs}: {keys}."),
    }
    return [
        texts[reason].format(runs=say_runs(ids, names, words), keys=_(", ").join(keys))
        for (reason, ids), keys in by_reason.items()
    ]


def say_runs(ids: Sequence[str], names: Mapping[str, str], words: Words) -> str:
    """The names of a few runs, and how many more there are."""
    _ = words.translate
    shown = _(", ").join(names.get(run, run) for run in ids[:SHOWN])
    more = len(ids) - SHOWN
    return _("{names} and {n} more").format(names=shown, n=more) if more > 0 else shown


def say_note(note: Note, words: Words) -> str:
    _ = words.translate
    values = list(dict.fromkeys(words.value(note.key, value) for value in note.values.values()))
    shown = _(", ").join(values[:SHOWN]) + ("…" if len(values) > SHOWN else "")
    texts = {
        "differs": _("{key} differs ({values}): times and last digits may differ, the comparison holds."),
        "ignored": _("{key} differs ({values}), but the optimizer does not use it."),
        "updates": _("The numbers of updates differ: {values}."),
        "crossed": _(
            "{key} varies in every group alike ({values}): it adds to the spread and confounds nothing."
        ),
        "unbalanced": _("Some groups lack seeds that others have."),
        "repeats": _("Some runs repeat another run's settings and seed; the statistics count each once."),
        "subject_same": _("{key} is the same in all runs, so the verdict is about what differs."),
    }
    return texts[note.kind].format(key=words.title(note.key), values=shown)
