"""Who got which image wrong: confusion matrices and disagreement between runs. Pure numpy.

R runs, N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.predictions import Answers, Labels

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Show: TypeAlias = Literal["disagree", "a_only", "b_only", "all_wrong", "any_wrong", "all"]


@dataclass(frozen=True)
class Ballot:
    """What R runs answered on the images that all of them were validated on.

    index [N]: places in the validation set, rising; label [N]; predicted [R, N]; confidence [R, N] in 0..1.
    """

    classes: int
    index: Ints
    label: Ints
    predicted: Ints
    confidence: Floats

    @property
    def wrong(self) -> Mask:
        """[R, N]"""
        return np.not_equal(self.predicted, self.label)


def confusion(label: Ints, predicted: Ints, classes: int) -> Ints:
    """[K, K] counts: a row a true class, a column an answer."""
    return np.bincount(label * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def hold_ballot(evaluations: Sequence[tuple[Labels, Answers]]) -> Ballot:
    """The answers on the images that all the evaluations share, which may be none; at least one evaluation, all of
    the same validation set."""
    labels = [of for of, _ in evaluations]
    shared = np.sort(labels[0].index)
    places: list[Ints] = []
    for i, of in enumerate(labels):  # as a rule all are the same: then each is one comparison
        if i and not np.array_equal(of.index, labels[i - 1].index):
            shared = np.intersect1d(shared, of.index, assume_unique=True)
    for i, of in enumerate(labels):
        if i and np.array_equal(of.index, labels[i - 1].index):
            places.append(places[-1])
        else:
            order = np.argsort(of.index)
            places.append(order[np.searchsorted(of.index, shared, sorter=order)])
    columns = [
        (of.label[place], answers.predicted[place], answers.confidence[place])
        for place, (of, answers) in zip(places, evaluations, strict=True)
    ]
    return Ballot(
        labels[0].classes,
        shared,
        columns[0][0],
        np.stack([predicted for _, predicted, _ in columns]),
        np.stack([confidence for _, _, confidence in columns]).astype(np.float64),
    )


def disagreement(ballot: Ballot, places: Ints | None = None) -> Floats:
    """The share of pairs of runs that answered differently, for each image or for those at `places`; 0 for one run.

    (R^2 - sum of c_k^2) / (R (R - 1)), with c_k the number of runs that answered k.
    """
    predicted = ballot.predicted if places is None else ballot.predicted[:, places]
    runs, images = predicted.shape
    if runs < 2:
        return np.zeros(images)
    cells = (np.arange(images) * ballot.classes + predicted).ravel()
    votes = np.bincount(cells, minlength=images * ballot.classes).reshape(images, ballot.classes)
    return np.asarray((runs**2 - (votes**2).sum(1)) / (runs * (runs - 1)))


def choose(ballot: Ballot, show: Show, a: int, b: int) -> Mask:
    """[N]: the images to show; `a` and `b` are rows of the ballot."""
    wrong = ballot.wrong
    match show:
        case "a_only":
            chosen: Mask = wrong[a] & ~wrong[b]
        case "b_only":
            chosen = wrong[b] & ~wrong[a]
        case "all_wrong":
            chosen = np.logical_and.reduce(wrong)
        case "any_wrong":
            chosen = np.logical_or.reduce(wrong)
        case "disagree":
            chosen = np.logical_or.reduce(ballot.predicted != ballot.predicted[0])
        case "all":
            chosen = np.ones(len(ballot.label), np.bool_)
    return chosen


def order(ballot: Ballot, chosen: Mask, by: int | None = None) -> Ints:
    """Places in the ballot of the chosen images: most disagreement first, then the surest answers, then the index.

    With `by`, a row of the ballot, that run's surest answers first.
    """
    places = np.flatnonzero(chosen)
    if by is not None:
        return places[np.lexsort((places, -ballot.confidence[by, places]))]
    sure = ballot.confidence[:, places].mean(0)
    return places[np.lexsort((places, -sure, -disagreement(ballot, places)))]
