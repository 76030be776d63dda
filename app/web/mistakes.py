"""The panel "What they got wrong": everything that its template shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app import mistakes
from app.evaluations import At, Evaluation, Missing, class_names
from app.models import Run
from app.web import formats
from app.web.asked import PREFIX, Link
from app.web.forms import Choice
from app.web.i18n import _, ngettext
from app.web.matrices import (
    MAX_CLASSES,
    ClassTable,
    Matrix,
    highest_mistake,
    make_classes,
    make_difference,
    make_matrix,
)
from app.web.pictures import (
    Contest,
    ImageUrl,
    Judged,
    Pictures,
    choose_two,
    list_shows,
    make_pictures,
)
from app.web.rows import RunRow, distinct_names

MAX_MATRICES = 8
MAX_FREQUENT = 8


@dataclass(frozen=True)
class Hidden:
    """A field of the panel's forms that they only carry on."""

    name: str
    value: str


@dataclass(frozen=True)
class Frequent:
    """Two classes that a run mixes up often."""

    text: str
    count: str
    url: str


@dataclass(frozen=True)
class Detail:
    """What there is when a run has been evaluated at least. `shown` are the runs with a matrix, A and B first."""

    notes: list[str]
    hidden: list[Hidden]
    ats: list[Choice]
    earlier_url: str | None
    later_url: str | None
    firsts: list[Choice]
    seconds: list[Choice]
    share: bool
    matrices: list[Matrix]
    frequent: list[Frequent]
    classes: ClassTable
    shown: list[RunRow]
    shown_names: list[str]
    shows: list[Choice]
    pictures: Pictures


@dataclass(frozen=True)
class Panel:
    """`live` says which evaluations are shown, for the script to see that there is a new one; `reasons` why a run
    has none."""

    live: str
    reasons: list[str]
    detail: Detail | None


def make_panel(
    runs: Sequence[Run],
    rows: Sequence[RunRow],
    found: Mapping[str, Evaluation | Missing],
    link: Link,
    image_url: ImageUrl | None,
) -> Panel:
    """`found` has each run's evaluation or why there is none; `image_url` is None where no images are here."""
    names = distinct_names(rows)
    members = [
        Judged(run, row, name, one, _counts(one))
        for run, row, name in zip(runs, rows, names, strict=True)
        if isinstance(one := found[run.id], Evaluation)
    ]
    reasons = [
        _("{name}: {reason}").format(name=name, reason=_reason(one))
        for run, name in zip(runs, names, strict=True)
        if not isinstance(one := found[run.id], Evaluation)
    ]
    steps = {run_id: one.step if isinstance(one, Evaluation) else 0 for run_id, one in found.items()}
    live = ",".join(f"{run_id}:{step}" for run_id, step in steps.items())
    return Panel(live, reasons, _detail(members, link, image_url) if members else None)


def _counts(one: Evaluation) -> mistakes.Ints:
    return mistakes.confusion(one.labels.label, one.answers.predicted, one.labels.classes)


def _reason(one: Missing) -> str:
    texts = {
        "external": _("an outside script drives it, so its answers are not known"),
        "not_yet": _("its first evaluation is not done yet"),
        "none": _(
            "no answers are stored: it ended before its first evaluation, or is from an earlier version"
        ),
        "unreadable": _("its stored answers cannot be read"),
        "other_set": _("it was validated on other data, so it cannot be compared here"),
    }
    return texts[one]


def _detail(members: list[Judged], link: Link, image_url: ImageUrl | None) -> Detail:
    a, b = choose_two(members, link.asked)
    classes = members[0].one.labels.classes
    contest = Contest(members, a, b, class_names(members[0].run, classes))
    pair = [members[i] for i in dict.fromkeys((a, b))]
    shown = [*pair, *[member for member in members if member not in pair][: MAX_MATRICES - len(pair)]]
    epochs = sorted({epoch for member in members for epoch, _step in member.one.kept})
    here = link.asked.at if isinstance(link.asked.at, int) else members[a].one.epoch
    before, behind = [epoch for epoch in epochs if epoch < here], [epoch for epoch in epochs if epoch > here]
    shows = list_shows(contest, link.asked)
    many = classes > MAX_CLASSES
    return Detail(
        notes=_notes(contest, len(shown), image_url is not None),
        hidden=_hidden(link),
        ats=_ats(epochs, link.asked.at),
        earlier_url=link.to("wrong", at=before[-1], first=0) if before else None,
        later_url=link.to("wrong", at=behind[0], first=0) if behind else None,
        firsts=_options(members, a),
        seconds=_options(members, b),
        share=link.asked.share,
        matrices=[] if many else _matrices(shown, len(pair), contest.names, link),
        frequent=_frequent(members[a], contest.names, link) if many or len(members) == 1 else [],
        classes=make_classes(
            [m.counts for m in shown], [m.row for m in shown], [m.name for m in shown], contest.names
        ),
        shown=[member.row for member in shown],
        shown_names=[member.name for member in shown],
        shows=shows,
        pictures=make_pictures(
            contest,
            next(choice for choice in shows if choice.selected),
            link,
            image_url or (lambda _index: None),
        ),
    )


def _notes(contest: Contest, shown: int, images: bool) -> list[str]:
    notes, classes = [], len(contest.names)
    seen = [member.one.labels.index for member in contest.members]
    if not images:
        notes.append(
            _(
                "The images themselves are not on this server, but with the worker that trained; the rest is complete."
            )
        )
    if not all(np.array_equal(index, seen[0]) for index in seen):
        notes.append(
            _("These runs were validated on different images: they are compared on those that they share.")
        )
    more = len(contest.members) - shown
    if more:
        text = ngettext(
            "{n} more run is compared; choose it as A or B to see its matrix.",
            "{n} more runs are compared; choose one as A or B to see its matrix.",
            more,
        )
        notes.append(text.format(n=more))
    if classes > MAX_CLASSES:
        text = _("With {n} classes a matrix is no help: the most frequent mistakes of A are listed.")
        notes.append(text.format(n=classes))
    return notes


# -- the controls -----------------------------------------------------------------------------------------------------


def _hidden(link: Link) -> list[Hidden]:
    cell = [pair for pair in link.asked.pairs() if pair[0].removeprefix(PREFIX) in ("of", "truth", "answer")]
    return [Hidden("run", run_id) for run_id in link.runs] + [Hidden(*pair) for pair in cell]


def _ats(epochs: Sequence[int], at: At) -> list[Choice]:
    choices: list[tuple[At, str]] = [("last", _("Last evaluation")), ("best", _("Best evaluation"))]
    wanted = {*epochs, at} if isinstance(at, int) else set(epochs)
    choices += [(epoch, _("Epoch {n}").format(n=epoch)) for epoch in sorted(wanted, reverse=True)]
    return [Choice(str(value), title, value == at) for value, title in choices]


def _options(members: Sequence[Judged], chosen: int) -> list[Choice]:
    if len(members) < 2:
        return []
    return [Choice(member.run.id, member.name, i == chosen) for i, member in enumerate(members)]


# -- the matrices -----------------------------------------------------------------------------------------------------


def _matrices(shown: Sequence[Judged], compared: int, names: list[str], link: Link) -> list[Matrix]:
    """A and B, their difference, then the others."""
    share = link.asked.share
    top = highest_mistake([member.counts for member in shown], share=share)
    matrices = [_matrix(member, names, top, link) for member in shown]
    if compared == 2:
        first, second = shown[:2]
        ballot = mistakes.hold_ballot([(member.one.labels, member.one.answers) for member in (first, second)])
        counts = [mistakes.confusion(ballot.label, answers, ballot.classes) for answers in ballot.predicted]
        title = _("{b} against {a}").format(a=first.name, b=second.name)
        about = _("Blue: {b} does better there. Orange: worse.").format(b=second.name)
        matrices.insert(2, make_difference(title, about, counts[0], counts[1], names, share=share))
    return matrices


def _matrix(member: Judged, names: list[str], top: float, link: Link) -> Matrix:
    caption = _("{share} of {n} images right, epoch {epoch}").format(
        share=formats.percent(member.one.accuracy),
        n=f"{len(member.one.labels.label):,}",
        epoch=member.one.epoch,
    )
    return make_matrix(
        member.row,
        member.name,
        caption,
        member.counts,
        names,
        share=link.asked.share,
        top=top,
    )


def _frequent(member: Judged, names: list[str], link: Link) -> list[Frequent]:
    """The cells beside the diagonal with the most images."""
    counts = member.counts.copy()
    np.fill_diagonal(counts, 0)
    places = np.argsort(-counts, axis=None, kind="stable")[:MAX_FREQUENT]
    return [
        Frequent(
            _("{truth} taken for {answer}").format(truth=names[t], answer=names[p]),
            f"{int(counts[t, p]):,}",
            link.cell(member.run.id, t, p),
        )
        for t, p in (divmod(int(place), len(names)) for place in places)
        if counts[t, p]
    ]
