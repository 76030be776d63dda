"""Confusion matrices and per-class accuracy as the page draws them: texts, and steps of a colour scale.

Colour steps are classes of the style sheet (0..10), since the pages' policy forbids styles in attributes. Right answers
stay neutral: on one scale with them a few dozen mistakes among thousands would all look like none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.mistakes import Ints
from app.web import formats
from app.web.i18n import _
from app.web.rows import RunRow

Floats: TypeAlias = NDArray[np.float64]

STEPS = 10
MAX_CLASSES = 30  # a larger matrix is no picture any more; its most frequent mistakes are listed


@dataclass(frozen=True)
class Cell:
    """One cell: its number, its colour's class, what a screen reader and a pointer get to hear.

    `value` names it where it has images to show: for a button, as a hundred links that each name every run are large.
    """

    text: str
    kind: str
    title: str
    value: str


@dataclass(frozen=True)
class MatrixLine:
    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Matrix:
    """A table: a line a true class, a cell an answer. `run` is None for a difference of two."""

    run: RunRow | None
    name: str
    caption: str
    about: str
    heads: list[str]
    lines: list[MatrixLine]
    tall_heads: bool


@dataclass(frozen=True)
class Dot:
    x: str  # on the axis, in per cent
    colour: int
    dash: int


@dataclass(frozen=True)
class Share:
    """One run's accuracy in a class; `best` where others did worse."""

    text: str
    best: bool


@dataclass(frozen=True)
class ClassLine:
    name: str
    images: str
    dots: list[Dot]
    about: str
    shares: list[Share]


@dataclass(frozen=True)
class ClassTable:
    """Accuracy by class; the dots' axis goes from `low` to `high`."""

    low: str
    high: str
    lines: list[ClassLine]


def make_matrix(
    run: RunRow,
    name: str,
    caption: str,
    counts: Ints,
    names: Sequence[str],
    *,
    share: bool,
    top: float,
) -> Matrix:
    """One run's matrix. `top` is the value of the strongest colour, the same for all matrices that stand together."""
    values = shares(counts) if share else counts.astype(np.float64)
    lines = []
    for t, truth in enumerate(names):
        cells = [
            Cell(
                _number(values[t, p], share) if counts[t, p] else "",
                "right" if t == p else f"heat-{step(values[t, p], top)}",
                _meaning(truth, names[p], int(counts[t, p]), int(counts[t].sum())),
                f"{run.id}.{t}.{p}" if counts[t, p] else "",
            )
            for p in range(len(names))
        ]
        lines.append(MatrixLine(truth, cells))
    about = _("Rows: the true class. Columns: the answer.")
    return Matrix(run, name, caption, about, list(names), lines, _tall(names))


def make_difference(name: str, about: str, a: Ints, b: Ints, names: Sequence[str], *, share: bool) -> Matrix:
    """B minus A. Better for B: fewer mistakes beside the diagonal, more right answers on it."""
    difference = shares(b) - shares(a) if share else (b - a).astype(np.float64)
    top = float(np.abs(difference).max(initial=0))
    lines = []
    for t, truth in enumerate(names):
        cells = []
        for p, answer in enumerate(names):
            value = float(difference[t, p])
            better = (value > 0) == (t == p)
            kind = f"{'better' if better else 'worse'}-{step(abs(value), top)}" if value else "even"
            text = _signed(value, share) if value else ""
            cells.append(Cell(text, kind, _change(truth, answer, int(a[t, p]), int(b[t, p])), ""))
        lines.append(MatrixLine(truth, cells))
    return Matrix(None, name, "", about, list(names), lines, _tall(names))


def shares(counts: Ints) -> Floats:
    """[K, K]: each row by its sum; 0 for a class without images."""
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1))


def highest_mistake(matrices: Sequence[Ints], *, share: bool) -> float:
    """The largest value beside the diagonals."""
    top = 0.0
    for counts in matrices:
        values = shares(counts) if share else counts.astype(np.float64)
        np.fill_diagonal(values, 0)
        top = max(top, float(values.max(initial=0)))
    return top


def step(value: float, top: float) -> int:
    """0 for nothing, 1..10 by the square root of the value: single mistakes stay visible beside many."""
    return max(1, round(STEPS * (value / top) ** 0.5)) if value > 0 and top > 0 else 0


def make_classes(
    matrices: Sequence[Ints], rows: Sequence[RunRow], labels: Sequence[str], names: Sequence[str]
) -> ClassTable:
    """Accuracy by class of several runs, the hardest class (by their mean) first."""
    right = np.stack([np.diag(shares(counts)) for counts in matrices])  # [R, K]
    images = matrices[0].sum(1)
    there = [k for k in range(len(names)) if images[k]]
    low = _floor(float(right[:, there].min())) if there else 0.0
    lines = []
    for k in sorted(there, key=lambda k: (float(right[:, k].mean()), k)):
        shown = [formats.percent(float(value)) for value in right[:, k]]
        best, worst = float(right[:, k].max()), float(right[:, k].min())
        lines.append(
            ClassLine(
                names[k],
                f"{int(images[k]):,}",
                [
                    Dot(_place(float(value), low), row.colour, row.dash)
                    for value, row in zip(right[:, k], rows, strict=True)
                ],
                ", ".join(f"{label} {text}" for label, text in zip(labels, shown, strict=True)),
                [
                    Share(text, best > worst and float(value) == best)
                    for text, value in zip(shown, right[:, k], strict=True)
                ],
            )
        )
    return ClassTable(_("{n} %").format(n=f"{low * 100:g}"), _("{n} %").format(n=100), lines)


def _floor(share: float) -> float:
    """Where the axis begins: the next of these below."""
    return next(low for low in (0.99, 0.98, 0.95, 0.9, 0.8, 0.5, 0.0) if share >= low)


def _place(share: float, low: float) -> str:
    return f"{(share - low) / (1 - low) * 100:.1f}%"


def _number(value: float, share: bool) -> str:
    if not share:
        return f"{value:.0f}"
    percent = value * 100
    return f"{percent:.0f}" if percent >= 99.95 else f"{percent:.1f}"


def _signed(value: float, share: bool) -> str:
    size = abs(value) * 100 if share else abs(value)
    text = f"{size:.1f}" if share else f"{size:.0f}"
    return ("−" if value < 0 else "+") + text


def _meaning(truth: str, answer: str, count: int, of: int) -> str:
    if truth == answer:
        return _("{truth} recognised: {n} of {of}").format(truth=truth, n=f"{count:,}", of=f"{of:,}")
    return _("{truth} taken for {answer}: {n} of {of}").format(
        truth=truth, answer=answer, n=f"{count:,}", of=f"{of:,}"
    )


def _change(truth: str, answer: str, a: int, b: int) -> str:
    if truth == answer:
        return _("{truth} recognised: A {a}, B {b}").format(truth=truth, a=f"{a:,}", b=f"{b:,}")
    return _("{truth} taken for {answer}: A {a}, B {b}").format(
        truth=truth, answer=answer, a=f"{a:,}", b=f"{b:,}"
    )


def _tall(names: Sequence[str]) -> bool:
    """Whether the names of the columns must stand upright."""
    return max(len(name) for name in names) > 3
