"""The fairness verdict as the comparison's page shows it: in plain words, with the way to make it fair."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.compare import Group, KeyValues, Note, RunFacts, Unknown, Verdict
from app.compare.matching import Match, plan_match
from app.compare.sentences import lower
from app.web.i18n import _, ngettext
from app.web.rows import field_title, field_value
from app.web.specs import key_title, short_value

SHOWN_NAMES = 3
SHOWN_VALUES = 3
SHOWN_CAUSES = 4
MAX_VALUES = 12  # of one setting in the details; the table of settings has them all
BASICS = ("dataset", "train_size", "batch_size", "lr", "optimizer", "schedule", "epochs")


@dataclass(frozen=True)
class Cause:
    """One setting that differs beside what is compared: each value with the runs that have it."""

    title: str
    values: list[tuple[str, str]]


@dataclass(frozen=True)
class Subject:
    """One choice of what to compare by."""

    key: str
    title: str


@dataclass(frozen=True)
class MatchForm:
    """The button that runs the odd ones again; `lines` say what will start, `warning` what stays different."""

    title: str
    lines: list[str]
    warning: str
    key: str


@dataclass(frozen=True)
class Banner:
    """`kind` is that of app.compare.Verdict, or "several" where none of the settings that differ is the subject.

    `text` says what a good verdict rests on, or what to do.
    """

    kind: str
    title: str
    text: str
    causes: list[Cause]
    unknown: list[str]
    notes: list[str]
    subjects: list[Subject]
    match: MatchForm | None
    obstacle: str


def make_banner(
    runs: Sequence[RunFacts], names: Mapping[str, str], verdict: Verdict, baseline: str | None
) -> Banner | None:
    """None without a comparison; `names` maps run ids to the names that the page shows."""
    if verdict.kind in ("none", "single"):
        return None
    plan = plan_match(runs, verdict, baseline)
    return Banner(
        kind="several" if plan.obstacle == "no_subject" else verdict.kind,
        title=_title(verdict),
        text=_text(runs, verdict),
        causes=[_cause(cause, names) for cause in verdict.confounders],
        unknown=_unknown(verdict.unknown, names),
        notes=[text for note in verdict.notes if (text := _note(note))],
        subjects=[Subject(c.key, key_title(c.key)) for c in verdict.confounders if c.key != "seed"]
        if plan.obstacle == "no_subject"
        else [],
        match=_match_form(plan, names) if plan.reruns else None,
        obstacle=obstacle_text(plan, names),
    )


def _title(verdict: Verdict) -> str:
    subject = listed(_subject_titles(verdict.subject))
    if verdict.kind == "controlled":
        return _("Controlled: only the {subject} differs").format(subject=subject)
    if verdict.kind == "confounded":
        causes = [_brief_cause(cause, verdict.groups) for cause in verdict.confounders]
        shown = listed(causes[:SHOWN_CAUSES])
        if len(causes) > SHOWN_CAUSES:
            text = ngettext(
                "{causes} and {n} more setting", "{causes} and {n} more settings", len(causes) - SHOWN_CAUSES
            )
            shown = text.format(causes=shown, n=len(causes) - SHOWN_CAUSES)
        if not verdict.subject:
            return _("Several settings differ: {causes}").format(causes=shown)
        return _("Confounded by {causes}").format(causes=shown)
    if verdict.kind == "incomplete":
        return _incomplete_title(verdict, subject)
    if verdict.kind == "replicates":
        return _("Only the seed differs: what you see is chance")
    return _("The same settings and the same seed")


def _incomplete_title(verdict: Verdict, subject: str) -> str:
    if verdict.subject:
        return _("As far as is known, only the {subject} differs").format(subject=subject)
    if any(len(group.seeds) > 1 for group in verdict.groups):
        return _("As far as is known, only the seed differs")
    return _("As far as is known, these runs have the same settings")


def _text(runs: Sequence[RunFacts], verdict: Verdict) -> str:
    if verdict.kind == "confounded":
        if not verdict.subject:
            return _(
                "No setting differs alone, so no difference in the results can be put down to one of them."
            )
        subject = listed(_subject_titles(verdict.subject))
        return _("A difference in the results may come from these as well as from the {subject}.").format(
            subject=subject
        )
    if verdict.kind == "identical":
        return _("On the same machine these runs give the same numbers.")
    same = _same_basics(runs)
    return _("The same in all runs: {settings}.").format(settings=listed(same)) if same else ""


def _same_basics(runs: Sequence[RunFacts]) -> list[str]:
    first = runs[0].spec
    return [
        f"{lower(field_title(name))} {field_value(name, first[name])}"
        for name in BASICS
        if first.get(name) is not None and all(run.spec.get(name) == first[name] for run in runs)
    ]


def _subject_titles(keys: Iterable[str]) -> list[str]:
    """`model` stands for its options as well."""
    names = list(keys)
    return [
        lower(key_title(key)) for key in names if not (key.startswith("model_options.") and "model" in names)
    ]


def _brief_cause(cause: KeyValues, groups: Sequence[Group]) -> str:
    title = lower(key_title(cause.key))
    if cause.key == "seed":
        sets = dict.fromkeys(", ".join(map(str, group.seeds)) for group in groups if group.seeds)
        return f"{title} {' / '.join(sets)}"
    values = list(dict.fromkeys(short_value(cause.key, value) for value in cause.values.values()))
    if len(values) == 2:
        return f"{title} {values[0]} → {values[1]}"
    if len(values) > SHOWN_VALUES:
        return _("{setting} ({n} values)").format(setting=title, n=len(values))
    return f"{title} {listed(values)}"


def _cause(cause: KeyValues, names: Mapping[str, str]) -> Cause:
    runs: dict[str, list[str]] = {}
    for run, value in cause.values.items():
        runs.setdefault(short_value(cause.key, value), []).append(run)
    values = [(value, listed_runs(ids, names)) for value, ids in runs.items()]
    return Cause(key_title(cause.key), values[:MAX_VALUES])


def _unknown(unknown: Sequence[Unknown], names: Mapping[str, str]) -> list[str]:
    by_reason: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in unknown:
        by_reason.setdefault((one.reason, one.runs), []).append(lower(key_title(one.key)))
    texts = {
        "not_begun": _("Known once {runs} trains: {keys}."),
        "not_said": _("Not recorded by {runs}: {keys}."),
    }
    return [
        texts[reason].format(runs=listed_runs(ids, names), keys=listed(keys))
        for (reason, ids), keys in by_reason.items()
    ]


def _note(note: Note) -> str:
    key = key_title(note.key)
    values = list(dict.fromkeys(short_value(note.key, value) for value in note.values.values()))
    shown = listed(values[:SHOWN_VALUES]) + ("…" if len(values) > SHOWN_VALUES else "")
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
    return texts[note.kind].format(key=key, values=shown)


# -- the way out ------------------------------------------------------------------------------------------------------


def _match_form(plan: Match, names: Mapping[str, str]) -> MatchForm:
    count = len(plan.reruns)
    lines = []
    for rerun in plan.reruns:
        changes = [
            f"{lower(key_title(key))} {short_value(key, old)} → {short_value(key, new)}"
            for key, (old, new) in rerun.changes.items()
        ]
        lines.append(
            _("{run}: {changes}").format(run=names[rerun.odd], changes=listed(changes) or _("as it was"))
        )
    warning = _("This cannot be set and may stay different: {keys}.").format(
        keys=listed(lower(key_title(key)) for key in plan.keys)
    )
    return MatchForm(
        title=ngettext(
            "Re-run the odd one with matched settings",
            "Re-run the odd ones with matched settings ({n} runs)",
            count,
        ).format(n=count),
        lines=lines,
        warning=warning if plan.keys else "",
        key=secrets.token_hex(16),
    )


def obstacle_text(plan: Match, names: Mapping[str, str]) -> str:
    """Why there is no button."""
    runs, keys = listed_runs(plan.odd, names), listed(lower(key_title(key)) for key in plan.keys)
    texts = {
        "external": _(
            "An outside script drove {runs}: start it there again with the settings of the others."
        ),
        "not_settable": _("{keys} cannot be set: run all of them again to compare them alike."),
        "invalid": _("{runs} cannot take the settings of the others ({keys})."),
        "too_many": _("Too many runs to start again at once; compare fewer."),
    }
    return texts[plan.obstacle].format(runs=runs, keys=keys) if plan.obstacle in texts else ""


# -- words ------------------------------------------------------------------------------------------------------------


def listed(parts: Iterable[str]) -> str:
    return _(", ").join(parts)


def listed_runs(ids: Sequence[str], names: Mapping[str, str]) -> str:
    """The names of a few runs, and how many more there are."""
    shown = listed(names.get(run, run) for run in ids[:SHOWN_NAMES])
    more = len(ids) - SHOWN_NAMES
    return _("{names} and {n} more").format(names=shown, n=more) if more > 0 else shown
