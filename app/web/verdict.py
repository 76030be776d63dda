"""The fairness verdict as the comparison's page shows it: in plain words, with the way to make it fair."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.compare import KeyValues, RunFacts, Verdict
from app.compare.explanation import say_note, say_runs, say_subject, say_unknown, say_verdict
from app.compare.matching import Match, plan_match
from app.compare.sentences import lower
from app.web.i18n import _, ngettext
from app.web.rows import field_title, field_value
from app.web.specs import WORDS, key_title, short_value

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
        title=say_verdict(verdict, WORDS),
        text=_text(runs, verdict),
        causes=[_cause(cause, names) for cause in verdict.confounders],
        unknown=say_unknown(verdict.unknown, names, WORDS),
        notes=[say_note(note, WORDS) for note in verdict.notes],
        subjects=[Subject(c.key, key_title(c.key)) for c in verdict.confounders if c.key != "seed"]
        if plan.obstacle == "no_subject"
        else [],
        match=_match_form(plan, names) if plan.reruns else None,
        obstacle=obstacle_text(plan, names),
    )


def _text(runs: Sequence[RunFacts], verdict: Verdict) -> str:
    if verdict.kind == "confounded":
        if not verdict.subject:
            return _(
                "No setting differs alone, so no difference in the results can be put down to one of them."
            )
        subject = say_subject(verdict, WORDS)
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


def _cause(cause: KeyValues, names: Mapping[str, str]) -> Cause:
    runs: dict[str, list[str]] = {}
    for run, value in cause.values.items():
        runs.setdefault(short_value(cause.key, value), []).append(run)
    values = [(value, listed_runs(ids, names)) for value, ids in runs.items()]
    return Cause(key_title(cause.key), values[:MAX_VALUES])


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


def listed(parts: Iterable[str]) -> str:
    return _(", ").join(parts)


def listed_runs(ids: Sequence[str], names: Mapping[str, str]) -> str:
    return say_runs(ids, names, WORDS)
