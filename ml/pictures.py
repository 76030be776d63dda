"""Pictures to be registered, as they come: labelled, of one shape, given out as uint8 a few at a time.

N pictures, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ml.registered import MAX_CLASSES, MAX_IMAGES

Index = NDArray[np.int64]
Uint8 = NDArray[np.uint8]


class UnusableSource(ValueError):
    """What was given cannot become a data set; the message says why and what to do."""


class Pictures(Protocol):
    """N labelled pictures; `labels` is [N] int64."""

    @property
    def labels(self) -> Index: ...

    def take(self, index: Index) -> Uint8:
        """Those at these places, [n, C, H, W]. Raises: UnusableSource, for one that cannot be read."""


@dataclass(frozen=True)
class Source:
    """What a reader found. `val` None: the validation pictures are still to be drawn from `train`."""

    kind: str
    shape: tuple[int, int, int]
    train: Pictures
    val: Pictures | None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """Some of other pictures."""

    of: Pictures
    index: Index

    @property
    def labels(self) -> Index:
        return self.of.labels[self.index]

    def take(self, index: Index) -> Uint8:
        return self.of.take(self.index[index])


def count_classes(train: Index, val: Index | None, names: Sequence[str]) -> int:
    """K, so that labels are 0 to K - 1 and each has a training picture.

    Raises: UnusableSource.
    """
    every = [part for part in (train, val) if part is not None]
    for what, part in zip(("training", "validation"), every, strict=False):
        if not 1 <= len(part) <= MAX_IMAGES:
            raise UnusableSource(f"there are {len(part):,} {what} images; 1 to {MAX_IMAGES:,} can be used")
    low, high = min(int(part.min()) for part in every), max(int(part.max()) for part in every)
    if low < 0 or high >= MAX_CLASSES:
        raise UnusableSource(
            f"labels run from {low} to {high}; number the classes from 0, at most {MAX_CLASSES:,} of them"
        )
    classes = high + 1
    if names and len(names) != classes:
        raise UnusableSource(f"there are {len(names)} class names, but the labels run from 0 to {high}")
    if classes < 2:
        raise UnusableSource("all images are of one class; there is nothing to tell apart")
    empty = np.flatnonzero(np.bincount(train, minlength=classes) == 0)
    if len(empty):
        shown = ", ".join(str(names[k] if names else k) for k in empty[:5].tolist())
        raise UnusableSource(
            f"no training image is of class {shown}{' ...' if len(empty) > 5 else ''}; number the classes from 0 "
            f"without a gap, and give each an image"
        )
    return classes


def draw_validation(labels: Index, fraction: float, seed: int) -> tuple[Index, Index]:
    """The places of the training and of the validation pictures, `fraction` of each class drawn by `seed`.

    A class of one picture keeps it for training. The same labels give the same draw everywhere: the stream of
    RandomState is frozen (NumPy's NEP 19), so that a set that is registered on two hosts has one digest.
    """
    draw = np.random.RandomState(seed)
    chosen = np.zeros(len(labels), bool)
    for k in np.unique(labels):
        places = np.flatnonzero(labels == k)
        count = min(max(round(fraction * len(places)), 1), len(places) - 1)
        chosen[draw.permutation(places)[:count]] = True
    if not chosen.any():
        raise UnusableSource("no class has two images, so none can be set apart for validation; add some")
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def read_labels(values: NDArray[Any], what: str) -> Index:
    """[N] int64 of whole numbers in any type, [N, 1] or one-hot [N, K].

    Raises: UnusableSource.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        values = _one_hot(values, what)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise UnusableSource(
            f"{what} has shape {list(values.shape)} and type {values.dtype}; labels are one whole number an image"
        )
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise UnusableSource(f"{what} holds numbers that are not whole; labels are 0, 1, 2, ...")
    return whole


def _one_hot(values: NDArray[Any], what: str) -> NDArray[Any]:
    if not (((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()):
        raise UnusableSource(
            f"{what} has shape {list(values.shape)} but is not one-hot; give one number an image"
        )
    return np.asarray(values.argmax(axis=1))
