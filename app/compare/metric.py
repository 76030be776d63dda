"""Statistics of a metric as the database summarises it: which value of a run counts, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.compare.facts import RunFacts
from app.compare.statistics import At, Statistics, measure
from app.compare.verdict import Verdict
from app.models import MetricSummary
from app.results import VALIDATION_ACCURACY, best_of, direction_of, is_share

Summaries = Mapping[str, Sequence[MetricSummary]]  # by run id, a row a metric

PREFERRED = (*VALIDATION_ACCURACY, "val/loss", "val_loss", "eval/loss", "test/loss")


def default_metric(summaries: Summaries) -> str | None:
    """The validation accuracy where any run has one, else the validation loss, else what most runs have measured."""
    counts: dict[str, int] = {}
    for rows in summaries.values():
        for row in rows:
            counts[row.metric] = counts.get(row.metric, 0) + 1
    known = [name for name in PREFERRED if name in counts]
    return known[0] if known else max(counts, key=lambda name: counts[name], default=None)


def measure_metric(
    runs: Sequence[RunFacts],
    verdict: Verdict,
    summaries: Summaries,
    metric: str,
    at: At = "last",
    baseline: str | None = None,
) -> Statistics:
    """What the seeds show of the verdict's groups in this metric; see app.compare.statistics.

    `at`: "last" is the end of the training; "best" is the best of all evaluations, which flatters every run a little,
    and one with more evaluations more. A metric whose name does not tell what better is has no best: its last counts.
    """
    rows = {run: row for run, found in summaries.items() for row in found if row.metric == metric}
    direction = direction_of(metric)
    if direction is None:
        at = "last"
    values = {run: _value(row, at) for run, row in rows.items()}
    share = bool(rows) and is_share(metric, list(rows.values()))
    return measure(runs, verdict, values, metric, at=at, direction=direction, share=share, baseline=baseline)


def _value(row: MetricSummary, at: At) -> float:
    """NaN where it is not finite."""
    if at == "last":
        return math.nan if row.last is None else row.last
    best = best_of(row)
    return math.nan if best is None else best.value
