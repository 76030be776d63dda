"""The stored evaluations of runs: which there are, and the answers of the one that is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlmodel import Session

from app import artifacts
from app.artifacts import PREDICTIONS, Listed
from app.models import ENDED, Run
from app.predictions import LABELS_NAME, Answers, Labels, Unreadable, read_answers, read_labels
from ml.catalog import DATASETS

At: TypeAlias = Literal["last", "best"] | int  # an int is an epoch
# Why a run has nothing to show: see `MISSING`.
Missing: TypeAlias = Literal["external", "not_yet", "none", "unreadable", "other_set"]

MISSING: dict[Missing, str] = {
    "external": "an outside script drives this run, so its answers are not known",
    "not_yet": "its first evaluation is not done yet",
    "none": "it has no stored predictions: it ended before its first evaluation, or is from an earlier version",
    "unreadable": "its stored predictions cannot be read",
    "other_set": "it was validated on other data",
}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run. `kept` lists (epoch, step) of all that are stored, in order."""

    step: int
    epoch: int
    kept: tuple[tuple[int, int], ...]
    labels: Labels
    answers: Answers

    @property
    def accuracy(self) -> float:
        """The very number of `val/accuracy` at this step."""
        return int((self.answers.predicted == self.labels.label).sum()) / len(self.labels.label)


def class_names(run: Run, classes: int) -> list[str]:
    """What the classes of a run's data set are called."""
    dataset = DATASETS.get(run.dataset or "")
    return [dataset.name_of(k) if dataset else str(k) for k in range(classes)]


def read_at(text: str) -> At | None:
    """`last`, `best` or an epoch; None for anything else."""
    if text in ("last", "best"):
        return "last" if text == "last" else "best"
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def load_evaluations(s: Session, runs: Sequence[Run], at: At) -> dict[str, Evaluation | Missing]:
    """By run, its evaluation, or why there is none.

    For an epoch whose predictions are not stored: the newest before it, or else the first.
    """
    ids = [run.id for run in runs]
    listed = artifacts.list_artifacts(s, ids, PREDICTIONS)
    best = artifacts.best_steps(s, ids) if at == "best" else {}
    chosen = {run_id: _choose(rows, at, best.get(run_id)) for run_id, rows in listed.items() if rows}
    labels = artifacts.read_contents(s, dict.fromkeys(chosen, LABELS_NAME))
    answers = artifacts.read_contents(s, {run_id: one.name for run_id, one in chosen.items()})
    found: dict[str, Evaluation | Missing] = {}
    for run in runs:
        if run.id not in chosen:
            found[run.id] = _why(run)
        else:
            kept = tuple((one.epoch, one.step) for one in listed[run.id])
            found[run.id] = _read(chosen[run.id], kept, labels.get(run.id), answers.get(run.id))
    return found


def load_step(s: Session, run: Run, step: int) -> Evaluation | Missing | None:
    """The evaluation after `step`; None when it is not stored."""
    listed = artifacts.list_artifacts(s, [run.id], PREDICTIONS)[run.id]
    one = next((row for row in listed if row.step == step), None)
    if one is None:
        return None
    contents = [artifacts.read_contents(s, {run.id: name}).get(run.id) for name in (LABELS_NAME, one.name)]
    return _read(one, tuple((row.epoch, row.step) for row in listed), *contents)


def same_set(found: Mapping[str, Evaluation | Missing]) -> dict[str, Evaluation | Missing]:
    """With runs that were validated on other data than the first one marked so."""
    first = next((one for one in found.values() if isinstance(one, Evaluation)), None)
    return {
        run_id: "other_set"
        if isinstance(one, Evaluation)
        and first is not None
        and (one.labels.val_digest, one.labels.classes) != (first.labels.val_digest, first.labels.classes)
        else one
        for run_id, one in found.items()
    }


def _choose(rows: Sequence[Listed], at: At, best_step: int | None) -> Listed:
    if at == "last":
        return rows[-1]
    if at == "best":
        # The best may be one that was measured again and is not stored: then the nearest before it.
        return _newest_until(rows, rows[-1].step if best_step is None else best_step, "step")
    return _newest_until(rows, at, "epoch")


def _newest_until(rows: Sequence[Listed], bound: int, of: Literal["step", "epoch"]) -> Listed:
    return next((row for row in reversed(rows) if getattr(row, of) <= bound), rows[0])


def _why(run: Run) -> Missing:
    if run.kind == "external":
        return "external"
    return "none" if run.state in ENDED else "not_yet"


def _read(
    one: Listed, kept: tuple[tuple[int, int], ...], labels: bytes | None, answers: bytes | None
) -> Evaluation | Missing:
    if labels is None or answers is None:
        return "unreadable"
    try:
        of = read_labels(labels)
        return Evaluation(one.step, one.epoch, kept, of, read_answers(answers, of))
    except Unreadable:
        return "unreadable"
