"""What the seeds show, on the comparison's page: one sentence, a strip of points a group, the tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from starlette.datastructures import QueryParams

from app.compare import RunFacts, Statistics, Verdict, measure
from app.compare.metric import default_metric
from app.compare.sentences import (
    label_groups,
    say_left_out,
    say_mean,
    say_method,
    say_p,
    say_pair,
    say_result,
)
from app.compare.statistics import Pair, Sample
from app.models import MetricSummary
from app.results import Result, best_of, direction_of, is_share
from app.web import formats
from app.web.figures import metric_title, shown_metrics
from app.web.forms import Choice
from app.web.i18n import _
from app.web.rows import RunRow
from app.web.specs import WORDS

At: TypeAlias = Literal["best", "last"]
MAX_GROUPS = 30  # more are no groups of seeds, but single runs of a sweep
MARGIN = 4.0  # percent of the strip's width at either end
TOUCHING = 0.8  # percent: dots nearer than this cover each other
ROWS = (13, 8, 18)  # pixels: the middle of the strip, above it, below it
CACHED = 64  # answers: a page that follows its runs asks again every few seconds


@dataclass(frozen=True)
class Dot:
    """One value in a strip: its place (percent of the width, pixels of the height), the run's colour, who it is."""

    x: str
    y: int
    colour: int
    title: str


@dataclass(frozen=True)
class GroupRow:
    """`x` is the mean's place; `left` and `width` are those of mean ± std, empty with one value."""

    label: str
    mean: str
    dots: list[Dot]
    x: str
    left: str
    width: str


@dataclass(frozen=True)
class PairRow:
    """Two groups: the sentence, and the figures behind it. `mark` is shown, open, or untested."""

    sentence: str
    p: str
    p_welch: str
    p_permutation: str
    p_paired: str
    effect: str
    mark: str


@dataclass(frozen=True)
class StatisticsPanel:
    """`ends` are the texts at the ends of the strips' common axis; `empty` says why there is nothing to show."""

    metrics: list[Choice]
    at: list[Choice]
    sentence: str
    groups: list[GroupRow]
    ends: tuple[str, str]
    pairs: list[PairRow]
    method: list[str]
    left_out: list[str]
    empty: str


@dataclass(frozen=True)
class _Question:
    """What is asked of app.compare.measure; equal questions have equal answers."""

    key: tuple[Any, ...]
    runs: Sequence[RunFacts] = field(compare=False)
    verdict: Verdict = field(compare=False)
    values: Mapping[str, float | None] = field(compare=False)
    share: bool = field(compare=False)


def read_choice(query: QueryParams, results: Sequence[Result]) -> tuple[str | None, At, list[str]]:
    """The metric and the end that the address asks for, or the usual ones; a notice for what there is not."""
    metrics, _count = shown_metrics(results, everything=True)
    wanted, end = query.get("metric") or "", query.get("at") or "last"
    notices = []
    if wanted and wanted not in metrics:
        text = _("None of these runs has measured “{metric}” (yet): the statistics show another one.")
        notices.append(text.format(metric=wanted[:60]))
    if end not in ("best", "last"):
        notices.append(_("“at” in the address is best or last, not “{value}”.").format(value=end[:60]))
    usual = default_metric({str(i): list(result.metrics.values()) for i, result in enumerate(results)})
    return wanted if wanted in metrics else usual, "best" if end == "best" else "last", notices


def make_statistics(
    runs: Sequence[RunFacts],
    rows: Sequence[RunRow],
    names: Mapping[str, str],
    results: Mapping[str, Result],
    verdict: Verdict,
    choice: tuple[str | None, At],
    baseline: str | None,
) -> StatisticsPanel | None:
    """None with fewer than two runs, or where nothing was measured."""
    metric, at = choice
    if len(runs) < 2 or metric is None:
        return None
    summaries = [row for result in results.values() if (row := result.metrics.get(metric))]
    share, telling = is_share(metric, summaries), direction_of(metric) is not None
    end: At = at if telling else "last"
    values = {run.id: _value(results[run.id].metrics.get(metric), end) for run in runs}
    key = (
        metric,
        end,
        baseline,
        *((r.id, r.state, values[r.id]) for r in runs),
        *(g.runs for g in verdict.groups),
    )
    found = _measure(_Question(key, runs, verdict, values, share))
    labels = label_groups(verdict.groups, WORDS, names)
    crowded = len(verdict.groups) > MAX_GROUPS
    tested = any(pair.p is not None for pair in found.pairs)
    groups = [] if crowded else _groups(found, labels, {row.id: row.colour for row in rows}, names)
    return StatisticsPanel(
        metrics=_metric_choices(results, metric),
        at=[Choice(value, title, value == end) for value, title in (("best", _("best")), ("last", _("last")))]
        if telling
        else [],
        sentence=say_result(found, labels, WORDS),
        groups=groups,
        ends=_ends(found, share),
        pairs=[] if crowded or not tested else [_pair(found, pair, labels) for pair in found.pairs],
        method=say_method(found, WORDS),
        left_out=say_left_out(found, names, WORDS),
        empty=_("These runs form {n} groups, too many to draw: group them by fewer settings.").format(
            n=len(verdict.groups)
        )
        if crowded
        else "",
    )


@lru_cache(maxsize=CACHED)
def _measure(question: _Question) -> Statistics:
    metric, at, baseline = question.key[:3]
    return measure(
        question.runs,
        question.verdict,
        question.values,
        metric,
        at=at,
        direction=direction_of(metric),
        share=question.share,
        baseline=baseline,
    )


def _value(summary: MetricSummary | None, at: At) -> float | None:
    """A last value that is not finite is no number, and not the last finite one."""
    if summary is None:
        return None
    if at == "last":
        return math.nan if summary.last is None else summary.last
    best = best_of(summary)
    return math.nan if best is None else best.value


def _metric_choices(results: Mapping[str, Result], chosen: str) -> list[Choice]:
    metrics, _count = shown_metrics(list(results.values()), everything=True)
    return [Choice(metric, metric_title(metric), metric == chosen) for metric in metrics]


# -- the strips -------------------------------------------------------------------------------------------------------


def _groups(
    found: Statistics, labels: Sequence[str], colours: Mapping[str, int], names: Mapping[str, str]
) -> list[GroupRow]:
    low, high = _range(found)
    return [
        _group(sample, label, (low, high), found.share, colours, names)
        for sample, label in zip(found.samples, labels, strict=True)
    ]


def _group(
    sample: Sample,
    label: str,
    ends: tuple[float, float],
    share: bool,
    colours: Mapping[str, int],
    names: Mapping[str, str],
) -> GroupRow:
    mean, std = sample.mean, sample.std
    spread = mean is not None and std is not None
    left = _place(mean - std, ends) if mean is not None and std is not None else 0.0
    right = _place(mean + std, ends) if mean is not None and std is not None else 0.0
    return GroupRow(
        label=label,
        mean=say_mean(sample, share, WORDS),
        dots=_dots(sample, ends, share, colours, names),
        x="" if mean is None else _percent(_place(mean, ends)),
        left=_percent(left) if spread else "",
        width=_percent(right - left) if spread else "",
    )


def _dots(
    sample: Sample,
    ends: tuple[float, float],
    share: bool,
    colours: Mapping[str, int],
    names: Mapping[str, str],
) -> list[Dot]:
    """By rising value; what would cover its neighbour moves up or down."""
    dots, before, row = [], -100.0, 0
    for value, ids in sorted(zip(sample.values, sample.runs, strict=True)):
        place = _place(value, ends)
        row = (row + 1) % len(ROWS) if place - before < TOUCHING else 0
        before = place
        text = f"{names[ids[0]]}: {_written(value, share)}"
        dots.append(Dot(_percent(place), ROWS[row], colours[ids[0]], text))
    return dots


def _range(found: Statistics) -> tuple[float, float]:
    """The common axis: all values, and all of mean ± std."""
    values = [value for sample in found.samples for value in sample.values]
    for sample in found.samples:
        if sample.mean is not None and sample.std is not None:
            values += [sample.mean - sample.std, sample.mean + sample.std]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _place(value: float, ends: tuple[float, float]) -> float:
    """Percent of the width; a single value stands in the middle."""
    low, high = ends
    return MARGIN + (100 - 2 * MARGIN) * ((value - low) / (high - low) if high > low else 0.5)


def _percent(place: float) -> str:
    return f"{place:.2f}%"


def _written(value: float, share: bool) -> str:
    return formats.percent(value) if share else formats.number(value)


def _ends(found: Statistics, share: bool) -> tuple[str, str]:
    low, high = _range(found)
    return (_written(low, share), _written(high, share)) if high > low else ("", "")


# -- the tests --------------------------------------------------------------------------------------------------------


def _pair(found: Statistics, pair: Pair, labels: Sequence[str]) -> PairRow:
    mark = {True: "shown", False: "open", None: "untested"}[pair.shown]
    return PairRow(
        sentence=say_pair(found, pair, labels, WORDS),
        p=say_p(pair.p_adjusted, WORDS),
        p_welch=say_p(pair.p_welch, WORDS),
        p_permutation=say_p(pair.permutation.p if pair.permutation else None, WORDS),
        p_paired=say_p(pair.paired.p if pair.paired else None, WORDS),
        # As the sentence tells the difference: of the group that it names first.
        effect=formats.DASH if pair.effect is None else f"{abs(pair.effect):.2f}",
        mark=mark,
    )
