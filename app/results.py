"""What runs came to: the best of each metric, how long an epoch took, when an accuracy was reached. SQL and numpy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from sqlmodel import Session

from app import series
from app.db import now
from app.models import MetricSummary, Run
from app.series import Block, make_block

Direction: TypeAlias = Literal["higher", "lower"]

# Shares of right answers on the validation set, from 0 to 1; the first name that a run has counts.
VALIDATION_ACCURACY = ("val/accuracy", "val_accuracy", "val/acc", "val_acc", "eval/accuracy", "test/accuracy")
LONG = (
    20_000  # evaluations; a script that logs an accuracy a step has more, and opening all of them takes long
)
TARGETS = (0.90, 0.95, 0.98, 0.99)

_HIGHER = frozenset(
    (
        "accuracy",
        "acc",
        "f1",
        "auc",
        "auroc",
        "precision",
        "recall",
        "iou",
        "dice",
        "bleu",
        "r2",
        "top1",
        "top5",
    )
)
_LOWER = frozenset(("loss", "error", "err", "perplexity", "ppl", "mse", "mae", "rmse", "nll", "wer", "cer"))


def direction_of(metric: str) -> Direction | None:
    """Whether more or less of a metric is better, as its name tells; None for names that tell nothing."""
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    if words & _LOWER:
        return "lower"
    return "higher" if words & _HIGHER else None


def is_share(metric: str, summaries: Sequence[MetricSummary]) -> bool:
    """Whether a metric is an accuracy in 0..1, to be shown in percent; scripts also log 0..100."""
    words = re.split(r"[^a-z0-9]+", metric.lower())
    return bool({"accuracy", "acc"} & set(words)) and all(
        low >= 0 and high <= 1
        for low, high in ((s.min, s.max) for s in summaries)
        if low is not None and high is not None
    )


class Point(NamedTuple):
    """A value and the step at which it was measured."""

    value: float
    step: int


class Moment(NamedTuple):
    """When something was reached: the step, and the seconds since the run began."""

    step: int
    elapsed_s: float


@dataclass(frozen=True)
class Result:
    """What one run came to. `reached` maps each of TARGETS to its moment, None where the run did not get there;
    it is empty for a run without a validation accuracy."""

    metrics: Mapping[str, MetricSummary]
    parameters: int | None
    epoch_s: float | None
    total_s: float | None
    reached: Mapping[float, Moment | None]


def best_of(summary: MetricSummary) -> Point | None:
    """The best value so far; None without a finite value, or where the name does not tell what better is."""
    direction = direction_of(summary.metric)
    if direction == "higher" and summary.max is not None and summary.max_step is not None:
        return Point(summary.max, summary.max_step)
    if direction == "lower" and summary.min is not None and summary.min_step is not None:
        return Point(summary.min, summary.min_step)
    return None


def read_results(s: Session, runs: Sequence[Run]) -> dict[str, Result]:
    """The results of these runs by id: summaries from their table, moments from the evaluations' points."""
    ids = [run.id for run in runs]
    summaries = {
        run_id: {row.metric: row for row in rows} for run_id, rows in series.list_summaries(s, ids).items()
    }
    evaluations = _read_evaluations(s, summaries)
    at = now(s)
    return {
        run.id: _result(run, summaries[run.id], evaluations.get(run.id, series.EMPTY), at) for run in runs
    }


def _read_evaluations(s: Session, summaries: Mapping[str, Mapping[str, MetricSummary]]) -> dict[str, Block]:
    """The validation accuracy of each run that has one; of a long one, the parts that the targets and ends lie in."""
    rows: dict[str, MetricSummary] = {}
    for run_id, found in summaries.items():
        name = next((name for name in VALIDATION_ACCURACY if name in found), None)
        if name is not None:
            rows[run_id] = found[name]
    short = {run_id: row.metric for run_id, row in rows.items() if row.count <= LONG}
    blocks = series.read_blocks(s, list(short), sorted(set(short.values()))) if short else {}
    read = {run_id: blocks.get((run_id, metric), series.EMPTY) for run_id, metric in short.items()}
    return read | {
        run_id: _read_parts(s, run_id, row.metric) for run_id, row in rows.items() if run_id not in short
    }


def _read_parts(s: Session, run_id: str, metric: str) -> Block:
    """Points of the first and last chunk and of those in which a target is first met: nothing else is opened.

    Where a script wrote steps again, and until its flushes are compacted, a target that only a replaced value met hides
    the evaluation that meets it later.
    """
    heads = sorted(series.read_heads(s, run_id, metric), key=lambda head: head.first_step)
    wanted = {heads[0].seq: heads[0], heads[-1].seq: heads[-1]} if heads else {}
    for target in TARGETS:
        first = next((head for head in heads if head.max is not None and head.max >= target), None)
        if first is not None:
            wanted[first.seq] = first
    parts = [
        block
        for head in wanted.values()
        for block in series.read_blocks(s, [run_id], [metric], head.first_step, head.last_step).values()
    ]
    if not parts:
        return series.EMPTY
    return make_block(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _result(run: Run, metrics: Mapping[str, MetricSummary], evaluations: Block, at: float) -> Result:
    began = run.started_at or run.created_at
    imported = (
        len(evaluations.times) > 0 and evaluations.times[-1] < began
    )  # a script sends an older training's points
    if imported:
        began = float(evaluations.times[0])
    return Result(
        metrics=metrics,
        parameters=_count(run.resolved.get("parameters")) or _count(run.spec.get("parameters")),
        epoch_s=epoch_seconds(
            evaluations, run.steps_per_epoch or _count(run.spec.get("steps_per_epoch")), began
        ),
        total_s=float(evaluations.times[-1]) - began if imported else _total(run, at),
        reached={target: first_at(evaluations, target, began) for target in TARGETS}
        if len(evaluations.steps)
        else {},
    )


def _total(run: Run, at: float) -> float | None:
    """Seconds from the first start to the end, or until now; waiting in between counts."""
    return None if run.started_at is None else (run.ended_at or at) - run.started_at


def first_at(evaluations: Block, target: float, began: float) -> Moment | None:
    """The first evaluation at or above `target`, seconds counted from `began`; None when there is none."""
    hits = np.flatnonzero(evaluations.values >= target)  # NaN is at no target
    if not hits.size:
        return None
    first = hits[0]
    return Moment(int(evaluations.steps[first]), max(0.0, float(evaluations.times[first]) - began))


def epoch_seconds(evaluations: Block, steps_per_epoch: int | None, began: float) -> float | None:
    """The median time of an epoch with its evaluation, from one evaluation to the next: a pause does not change it.

    A single evaluation is measured from the run's beginning, with what it took to start.
    """
    if not steps_per_epoch or not len(evaluations.steps):
        return None
    if len(evaluations.steps) == 1:
        epochs = float(evaluations.steps[0]) / steps_per_epoch
        return (float(evaluations.times[0]) - began) / epochs if epochs > 0 else None
    epochs_between = np.diff(evaluations.steps) / steps_per_epoch
    return float(np.median(np.diff(evaluations.times) / epochs_between))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
