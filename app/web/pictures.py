"""Validation images with what runs took them for: which, in which order, a page of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from app import mistakes
from app.evaluations import Evaluation
from app.mistakes import Ballot, Ints, Show
from app.models import Run
from app.web.asked import CELL, Asked, Link
from app.web.forms import Choice
from app.web.i18n import _, ngettext
from app.web.rows import RunRow

ImageUrl: TypeAlias = Callable[[int], str | None]
PAGE = 24
MAX_ANSWERS = 6  # under an image


@dataclass(frozen=True)
class Judged:
    """A run with the evaluation that is shown of it; counts [K, K]."""

    run: Run
    row: RunRow
    name: str
    one: Evaluation
    counts: Ints


@dataclass(frozen=True)
class Contest:
    """The runs that are compared: `a` and `b` are places among the members (the same for one run alone)."""

    members: list[Judged]
    a: int
    b: int
    names: list[str]  # of the classes


@dataclass(frozen=True)
class Answer:
    """What one run took an image for."""

    run: RunRow
    name: str
    text: str
    confidence: str
    right: bool


@dataclass(frozen=True)
class Picture:
    """One image: `url` is None where this host does not have it."""

    url: str | None
    about: str
    truth: str
    number: str
    answers: list[Answer]
    others: str


@dataclass(frozen=True)
class Pictures:
    """One page of images; `clear_url` leads back from those of a single cell."""

    title: str
    count: str
    note: str
    wide: bool  # the classes have names that want room
    shown: list[Picture]
    clear_url: str | None
    earlier_url: str | None
    later_url: str | None


def list_shows(contest: Contest, asked: Asked) -> list[Choice]:
    """Which images can be asked for; exactly one is selected."""
    members, names = contest.members, contest.names
    first, second = members[contest.a].name, members[contest.b].name
    titles: dict[str, str] = {"any_wrong": _("Its mistakes, the surest first")}
    if len(members) > 1:
        titles = {
            "disagree": _("Where they disagree"),
            "a_only": _("{a} wrong, {b} right").format(a=first, b=second),
            "b_only": _("{a} wrong, {b} right").format(a=second, b=first),
            "all_wrong": _("All of them wrong"),
            "any_wrong": _("At least one wrong"),
        }
    of = next((member for member in members if member.run.id == asked.of), None)
    if asked.show == CELL and of is not None and max(asked.truth, asked.answer) < len(names):
        titles[CELL] = _cell_title(of.name, names[asked.truth], names[asked.answer])
    chosen = asked.show if asked.show in titles else next(iter(titles))
    return [Choice(value, title, value == chosen) for value, title in titles.items()]


def _cell_title(run: str, truth: str, answer: str) -> str:
    if truth == answer:
        return _("{truth}, recognised by {run}").format(truth=truth, run=run)
    return _("{truth}, taken for {answer} by {run}").format(truth=truth, answer=answer, run=run)


def make_pictures(contest: Contest, show: Choice, link: Link, image_url: ImageUrl) -> Pictures:
    """The page of `show`'s images that the address asks for."""
    concerned = _concerned(contest, show.value, link.asked)
    members, ballot = _hold_ballot(contest, concerned)
    places = _places(ballot, len(concerned), show.value, link.asked)
    first = min(link.asked.first, max(0, len(places) - 1)) // PAGE * PAGE
    page = places[first : first + PAGE].tolist()
    return Pictures(
        title=show.title,
        count=ngettext("{n} image", "{n} images", len(places)).format(n=f"{len(places):,}"),
        note="" if page else _("There is no such image at this evaluation."),
        wide=max(len(name) for name in contest.names) > 3,
        shown=[_picture(members, ballot, contest.names, place, image_url) for place in page],
        clear_url=link.images(show="", first=0) if show.value == CELL else None,
        earlier_url=link.images(first=first - PAGE) if first else None,
        later_url=link.images(first=first + PAGE) if first + PAGE < len(places) else None,
    )


def _concerned(contest: Contest, show: str, asked: Asked) -> list[Judged]:
    """The runs that the choice of images is about: A before B, or the run of a cell, or all."""
    members, two = contest.members, [contest.members[i] for i in dict.fromkeys((contest.a, contest.b))]
    if show == CELL:
        return [member for member in members if member.run.id == asked.of]
    if show in ("a_only", "b_only"):
        return two
    return two + [member for member in members if member not in two]


def _hold_ballot(contest: Contest, concerned: list[Judged]) -> tuple[list[Judged], Ballot]:
    """The ballot on the images that the runs concerned share, and its members: with them all that saw these too."""
    shared = mistakes.hold_ballot([(member.one.labels, member.one.answers) for member in concerned])
    two = [contest.members[contest.a], contest.members[contest.b]]
    rest = [member for member in [*two, *contest.members] if member not in concerned]
    seen = [member for member in rest if np.isin(shared.index, member.one.labels.index).all()]
    members = concerned + [member for i, member in enumerate(seen) if member not in seen[:i]]
    return members, mistakes.hold_ballot([(member.one.labels, member.one.answers) for member in members])


def _places(ballot: Ballot, concerned: int, show: str, asked: Asked) -> Ints:
    """Places in the ballot, in the order in which they are shown; its first runs are those `concerned`."""
    if show == CELL:
        chosen = np.equal(ballot.label, asked.truth) & np.equal(ballot.predicted[0], asked.answer)
    else:
        chosen = mistakes.choose(ballot, cast(Show, show), 0, min(1, concerned - 1))
    return mistakes.order(ballot, chosen, by=0 if concerned == 1 else None)


def _picture(
    members: Sequence[Judged], ballot: Ballot, names: Sequence[str], place: int, image_url: ImageUrl
) -> Picture:
    index, truth = int(ballot.index[place]), names[ballot.label[place]]
    right = np.equal(ballot.predicted[:, place], ballot.label[place])
    rest = len(members) - MAX_ANSWERS
    return Picture(
        image_url(index),
        _("Validation image {n}, true class {truth}").format(n=index, truth=truth),
        truth,
        str(index),
        [
            Answer(
                member.row,
                member.name,
                names[ballot.predicted[i, place]],
                _sureness(float(ballot.confidence[i, place])),
                bool(right[i]),
            )
            for i, member in enumerate(members[:MAX_ANSWERS])
        ],
        _("{right} of {n} others right").format(right=int(right[MAX_ANSWERS:].sum()), n=rest)
        if rest > 0
        else "",
    )


def _sureness(confidence: float) -> str:
    """Whole per cents, and tenths where they would be 100 for what is not quite certain."""
    percent = min(confidence * 100, 99.9)
    return _("{n} %").format(n=f"{percent:.0f}" if percent < 98.5 else f"{percent:.1f}")


def choose_two(members: Sequence[Judged], asked: Asked) -> tuple[int, int]:
    """Places of A and B: those asked for, else the first that are left."""
    ids = [member.run.id for member in members]
    a = ids.index(asked.a) if asked.a in ids else None
    b = ids.index(asked.b) if asked.b in ids else None
    if a is None:
        a = next((i for i in range(len(ids)) if i != b), 0)
    if b is None or b == a:
        b = next((i for i in range(len(ids)) if i != a), a)
    return a, b
