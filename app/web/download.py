"""The summary of a comparison as CSV: every number at full precision, names made harmless for spreadsheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from app.compare import flatten
from app.listing import iso
from app.models import Run
from app.results import TARGETS, Result, best_of
from app.spreadsheet import csv_line
from app.web.figures import shown_metrics

OF_A_METRIC = (
    "best",
    "best_step",
    "last",
    "last_step",
    "min",
    "min_step",
    "max",
    "max_step",
    "count",
    "nonfinite",
)


def summary_csv(runs: Sequence[Run], results: Mapping[str, Result]) -> Iterator[str]:
    """Lines of CSV (RFC 4180). Settings are `spec.lr`, figures `val/accuracy.best`, times are seconds.

    Begins with a byte order mark only where a cell is not ASCII: without it Excel reads UTF-8 as something else, and
    plain readers would take it for a part of the first column's name.
    """
    specs = [flatten(run.spec) for run in runs]
    fields = list(dict.fromkeys(name for spec in specs for name in spec))
    metrics, _count = shown_metrics([results[run.id] for run in runs], everything=True)
    heads = [_heads(fields, metrics)]
    rows = (_row(run, spec, results[run.id], fields, metrics) for run, spec in zip(runs, specs, strict=True))
    lines = [csv_line(cells) for cells in (*heads, *rows)]
    if not all(line.isascii() for line in lines):
        yield "\ufeff"
    yield from lines


def _heads(fields: Iterable[str], metrics: Iterable[str]) -> list[str]:
    targets = [f"{what}_to_{target * 100:g}_percent" for target in TARGETS for what in ("seconds", "step")]
    return [
        *(
            "id",
            "name",
            "kind",
            "state",
            "experiment",
            "model",
            "dataset",
            "created_at",
            "started_at",
            "ended_at",
        ),
        *("parameters", "seconds_per_epoch", "seconds_in_all", *targets),
        *(f"spec.{field}" for field in fields),
        *(f"{metric}.{part}" for metric in metrics for part in OF_A_METRIC),
    ]


def _row(
    run: Run, spec: Mapping[str, Any], result: Result, fields: Sequence[str], metrics: Sequence[str]
) -> list[Any]:
    moments = [result.reached.get(target) for target in TARGETS]
    return [
        *(run.id, run.name, run.kind, run.state, run.experiment, run.model, run.dataset),
        *(iso(at) for at in (run.created_at, run.started_at, run.ended_at)),
        *(result.parameters, result.epoch_s, result.total_s),
        *(
            part
            for moment in moments
            for part in ((moment.elapsed_s, moment.step) if moment else (None, None))
        ),
        *(spec.get(field) for field in fields),
        *(part for metric in metrics for part in _metric_cells(result, metric)),
    ]


def _metric_cells(result: Result, metric: str) -> list[float | None]:
    summary = result.metrics.get(metric)
    if summary is None:
        return [None] * len(OF_A_METRIC)
    best = best_of(summary) or (None, None)
    return [*best, *(getattr(summary, name) for name in OF_A_METRIC[2:])]
