"""The figures of a comparison: what each column of the summary reads, how it is written, which way is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.models import MetricSummary, Run
from app.results import TARGETS, Direction, Result, best_of, direction_of, is_share
from app.web import formats
from app.web.i18n import _
from app.web.words import script_words

FIRST = ("val/accuracy", "val/loss", "train/accuracy", "train/loss")
BRIEF_METRICS = 4
Delta: TypeAlias = Literal["points", "difference", "ratio"]
Read: TypeAlias = Callable[
    [Run, Result], tuple[float | None, str]
]  # the value, and the note that stands under it


@dataclass(frozen=True)
class Figure:
    """How one column is read, written and compared: what every cell of it needs."""

    key: str
    group: str
    title: str
    read: Read
    write: Callable[[float], str]
    better: Direction | None = None
    delta: Delta = "difference"
    missing: str = ""


def shown_metrics(results: Iterable[Result], *, everything: bool) -> tuple[list[str], int]:
    """The metrics in the order of their columns, and how many there are in all.

    Brief: the losses and accuracies first, and of the others those whose name tells what better is.
    """
    names = dict.fromkeys(name for result in results for name in result.metrics)
    first = [name for name in FIRST if name in names]
    telling = sorted(name for name in names if name not in FIRST and direction_of(name))
    rest = sorted(name for name in names if name not in FIRST and not direction_of(name))
    ordered = [*first, *telling, *rest]
    brief = [*first, *telling][:BRIEF_METRICS] or ordered[:BRIEF_METRICS]
    return (ordered if everything else brief), len(ordered)


def figures(results: Sequence[Result], metrics: Sequence[str]) -> list[Figure]:
    """The columns for these metrics and what every run has."""
    found: list[Figure] = []
    for metric in metrics:
        summaries = [result.metrics[metric] for result in results if metric in result.metrics]
        found += _metric_figures(metric, is_share(metric, summaries))
    if any(result.parameters for result in results):
        found.append(
            Figure("parameters", "", _("Parameters"), _parameters, lambda v: f"{v:,.0f}", delta="ratio")
        )
    time = _("Time")
    if any(result.epoch_s is not None for result in results):
        found.append(Figure("epoch", time, _("an epoch"), _epoch_time, seconds, "lower", "ratio"))
    found.append(Figure("total", time, _("in all"), _total_time, seconds, "lower", "ratio"))
    if any(result.reached for result in results):
        found += [_target_figure(target) for target in TARGETS]
    return found


def metric_title(metric: str) -> str:
    """The words for the metrics that our trainings measure, as the charts have them; a script's own name as it is."""
    return script_words().get(metric, metric) if "/" in metric else metric


def _metric_figures(metric: str, share: bool) -> list[Figure]:
    write = formats.percent if share else formats.number
    delta: Delta = "points" if share else "difference"
    better = direction_of(metric)

    def last(_run: Run, result: Result) -> tuple[float | None, str]:
        summary = result.metrics.get(metric)
        return (None, "") if summary is None else (summary.last, _at_step(summary.last_step))

    group = metric_title(metric)
    columns = [Figure(f"{metric}:last", group, _("last"), last, write, better, delta)]
    if better:
        return [Figure(f"{metric}:best", group, _("best"), _best(metric), write, better, delta), *columns]
    low = Figure(f"{metric}:min", group, _("lowest"), _extreme(metric, "min"), write, None, delta)
    high = Figure(f"{metric}:max", group, _("highest"), _extreme(metric, "max"), write, None, delta)
    return [low, high, *columns]


def _best(metric: str) -> Read:
    def read(_run: Run, result: Result) -> tuple[float | None, str]:
        summary = result.metrics.get(metric)
        best = best_of(summary) if summary else None
        return (best.value, _at_step(best.step)) if best else (None, "")

    return read


def _extreme(metric: str, which: Literal["min", "max"]) -> Read:
    def read(_run: Run, result: Result) -> tuple[float | None, str]:
        summary: MetricSummary | None = result.metrics.get(metric)
        if summary is None:
            return None, ""
        value, step = (summary.min, summary.min_step) if which == "min" else (summary.max, summary.max_step)
        return value, "" if step is None else _at_step(step)

    return read


def _at_step(step: int) -> str:
    return _("step {step}").format(step=f"{step:,}")


def _parameters(_run: Run, result: Result) -> tuple[float | None, str]:
    return result.parameters, ""


def _epoch_time(_run: Run, result: Result) -> tuple[float | None, str]:
    return result.epoch_s, ""


def _total_time(run: Run, result: Result) -> tuple[float | None, str]:
    return result.total_s, "" if run.ended_at or result.total_s is None else _("so far")


def _target_figure(target: float) -> Figure:
    def read(_run: Run, result: Result) -> tuple[float | None, str]:
        moment = result.reached.get(target)
        return (moment.elapsed_s, _at_step(moment.step)) if moment else (None, "")

    title = _("{share} %").format(share=f"{target * 100:g}")
    group = _("Time to validation accuracy")
    return Figure(f"to{target * 100:g}", group, title, read, seconds, "lower", "ratio", _("not reached"))


def seconds(value: float) -> str:
    """A duration with enough digits to compare: 0.84 s, 12.3 s, then minutes."""
    if value < 100:
        return _("{n} s").format(n=f"{value:.2f}" if value < 10 else f"{value:.1f}")
    return formats.duration(value)


def compare(value: float, base: float, kind: Delta, better: Direction | None) -> tuple[str, str]:
    """How a value differs from the baseline's: a text with its sign, and better, worse, same or nothing."""
    gap = round((value - base) * 100, 2) if kind == "points" else value - base
    if kind == "ratio" and base <= 0:
        return "", ""
    if gap == 0:
        return "=", "same" if better else ""
    if kind == "ratio":
        text = f"×{value / base:.3g}"
    elif kind == "points":
        text = _("{n} points").format(n=f"{gap:+.2f}".replace("-", "−"))
    else:
        text = f"{gap:+.3g}".replace("-", "−")
    if better is None or not math.isfinite(gap):
        return text, ""
    return text, "better" if (gap > 0) == (better == "higher") else "worse"
