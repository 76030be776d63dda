"""The statistics in plain sentences: one source of wording for the pages, the API and the command line.

Every text goes through `words`. Groups are called by `labels`, one a group (`label_groups`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.compare.statistics import Pair, Sample, Statistics
from app.compare.verdict import Group
from app.compare.words import OPTIONS, Words

DASH = "–"


def label_groups(groups: Sequence[Group], words: Words, names: Mapping[str, str]) -> list[str]:
    """A name a group, no two alike where that can be: its values under the subject, a model's options where models
    alone do not tell the groups apart, the runs' names where nothing does. `names` is by run id."""
    found = [_label(group, words, False) for group in groups]
    if len(set(found)) < len(found):
        found = [_label(group, words, True) for group in groups]
    return [
        label
        if label and found.count(label) == 1
        else ", ".join(names.get(run, run) for run in group.runs[:3]) or DASH
        for label, group in zip(found, groups, strict=True)
    ]


def _label(group: Group, words: Words, options: bool) -> str:
    alone = "model" in group.values and not options
    shown = {key: value for key, value in group.values.items() if not (alone and key.startswith(OPTIONS))}
    parts = [
        words.value(key, value) if key == "model" else f"{lower(words.title(key))} {words.value(key, value)}"
        for key, value in shown.items()
    ]
    return " · ".join(parts)


def lower(title: str) -> str:
    """A title inside a sentence; abbreviations and names of products keep their capital."""
    return title if title[1:2].isupper() or title.startswith("Py") else title[:1].lower() + title[1:]


def say_mean(sample: Sample, share: bool, words: Words) -> str:
    """`98.41 ± 0.20 %, n = 5`."""
    _ = words.translate
    if sample.mean is None:
        return _("nothing measured")
    factor, unit = (100.0, _("{n} %")) if share else (1.0, "{n}")
    mean, std = sample.mean * factor, None if sample.std is None else sample.std * factor
    if std is None:
        return _("{mean}, n = 1").format(mean=unit.format(n=_number(mean, 2 if share else _digits(mean))))
    digits = 2 if share else _digits(std or mean)
    return _("{mean} ± {std}, n = {n}").format(
        mean=_number(mean, digits), std=unit.format(n=_number(std, digits)), n=sample.n
    )


def say_pair(statistics: Statistics, pair: Pair, labels: Sequence[str], words: Words) -> str:
    """What the difference of two groups is, and whether it is more than chance, in one or two sentences."""
    _ = words.translate
    names = _oriented(statistics, pair, labels, words)
    if pair.p is None:
        return _say_untested(statistics, pair, names, labels, words)
    if pair.difference == 0:
        return _("{a} and {b} have the same mean, {p}, n = {n} + {m}.").format(**names)
    if pair.low is None:  # no spread in either group
        texts = (
            _("{a} is better than {b} by {amount}, {p}, n = {n} + {m}."),
            _("{a} is higher than {b} by {amount}, {p}, n = {n} + {m}."),
            _("No difference is shown: {a} is ahead of {b} by {amount}, {p}, n = {n} + {m}."),
        )
    else:
        texts = (
            _("{a} is better than {b} by {amount} [{low}, {high}], {p}, n = {n} + {m}."),
            _("{a} is higher than {b} by {amount} [{low}, {high}], {p}, n = {n} + {m}."),
            _("No difference is shown: {a} is ahead of {b} by {amount} [{low}, {high}], {p}, n = {n} + {m}."),
        )
        if statistics.share:
            texts = (_("{a} is {amount} better than {b} [{low}, {high}], {p}, n = {n} + {m}."), *texts[1:])
    if pair.shown:
        return texts[0 if pair.better is not None else 1].format(**names)
    return " ".join([texts[2].format(**names), *_say_power(statistics, pair, words)])


def _say_power(statistics: Statistics, pair: Pair, words: Words) -> list[str]:
    _ = words.translate
    if pair.low is None:
        return []
    n = min(statistics.samples[i].n for i in (pair.first, pair.second))
    if pair.seeds_needed is None:
        return [_("{n} seeds cannot show a difference this small; over 10,000 would be needed.").format(n=n)]
    needed = max(pair.seeds_needed, n + 1)
    return [
        _("{n} seeds cannot show a difference this small; about {needed} could.").format(
            n=n, needed=f"{needed:,}"
        )
    ]


def _say_untested(
    statistics: Statistics, pair: Pair, names: Mapping[str, str], labels: Sequence[str], words: Words
) -> str:
    _ = words.translate
    single = [labels[i] for i in (pair.first, pair.second) if statistics.samples[i].n == 1]
    if len(single) == 1:
        text = _("{a} is ahead of {b} by {amount}, but {single} has one seed: chance cannot be told from a difference. Run 3 or more seeds of each.")  # fmt: skip  # noqa: E501
    else:
        text = _("{a} is ahead of {b} by {amount}, with one seed each: chance cannot be told from a difference. Run 3 or more seeds of each.")  # fmt: skip  # noqa: E501
        if pair.difference == 0:
            text = _("{a} and {b} are equal, with one seed each: chance cannot be told from a difference. Run 3 or more seeds of each.")  # fmt: skip  # noqa: E501
    return text.format(**names, single=single[0])


def _oriented(statistics: Statistics, pair: Pair, labels: Sequence[str], words: Words) -> dict[str, str]:
    """What stands in the sentences, the better group first (the higher, where better is not known)."""
    turned = pair.difference < 0 if pair.better is None else pair.better == pair.second
    a, b = (pair.second, pair.first) if turned else (pair.first, pair.second)
    factor = 100.0 if statistics.share else 1.0
    # Better may be lower: the size of the difference counts, and the interval turns with it.
    sign = math.copysign(factor, pair.difference)
    amount = pair.difference * sign
    limits = sorted(limit * sign for limit in (pair.low, pair.high) if limit is not None) or [0.0, 0.0]
    digits = _digits(amount or limits[1])
    if statistics.share:
        digits = max(2, digits - 1)
    corrected = sum(p.p is not None for p in statistics.pairs) > 1
    return {
        "a": labels[a],
        "b": labels[b],
        "amount": say_amount(_number(amount, digits), statistics.share, words),
        "low": _number(limits[0], digits),
        "high": _number(limits[1], digits),
        "p": say_p(pair.p_adjusted, words, corrected=corrected),
        "n": str(statistics.samples[a].n),
        "m": str(statistics.samples[b].n),
    }


def say_amount(number: str, share: bool, words: Words) -> str:
    _ = words.translate
    return _("{number} points").format(number=number) if share else number


def say_p(p: float | None, words: Words, *, corrected: bool = False) -> str:
    """`p = 0.008`; `corrected`: after Holm, for several pairs."""
    _ = words.translate
    if p is None:
        return DASH
    if p < 0.001:
        return _("corrected p < 0.001") if corrected else _("p < 0.001")
    digits = f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"
    return (_("corrected p = {p}") if corrected else _("p = {p}")).format(p=digits)


def say_result(statistics: Statistics, labels: Sequence[str], words: Words) -> str:
    """The one sentence above all: of the pair when there are two groups, of the best group when there are more."""
    _ = words.translate
    measured = [i for i, sample in enumerate(statistics.samples) if sample.n]
    if not measured:
        return _("No finished run has measured this.")
    if len(measured) == 1:
        return _("Only one group has finished runs: there is nothing to compare it with yet.")
    if statistics.crowded:
        return _("These are too many groups to compare each with each; choose a baseline.")
    if len(statistics.pairs) == 1:
        return say_pair(statistics, statistics.pairs[0], labels, words)
    return _say_best(statistics, measured, labels, words)


def _say_best(statistics: Statistics, measured: Sequence[int], labels: Sequence[str], words: Words) -> str:
    _ = words.translate
    down = statistics.direction == "lower"
    best = min(measured, key=lambda i: (statistics.samples[i].mean or 0.0) * (1 if down else -1))
    own = [pair for pair in statistics.pairs if best in (pair.first, pair.second)]
    tested = [pair for pair in own if pair.shown is not None]
    shown = [pair for pair in tested if pair.shown]
    rest = [_other(pair, best) for pair in tested if not pair.shown]
    mean = say_mean(statistics.samples[best], statistics.share, words)
    if not tested:
        text = _("{best} has the best mean ({mean}), but chance cannot be told from a difference: run 3 or more seeds of each.")  # fmt: skip  # noqa: E501
    elif not shown:
        text = _("{best} has the best mean ({mean}); no difference to another group is shown.")
    elif rest:
        text = _(
            "{best} has the best mean ({mean}); the difference is shown for {shown}, and not for {rest}."
        )
    else:
        text = _("{best} has the best mean ({mean}); the difference is shown for {shown}.")
    if statistics.direction is None:
        text = _("{best} has the highest mean ({mean}).")
    join = _(", ").join
    return text.format(
        best=labels[best],
        mean=mean,
        shown=join(labels[_other(pair, best)] for pair in shown),
        rest=join(labels[i] for i in rest),
    )


def _other(pair: Pair, index: int) -> int:
    return pair.second if pair.first == index else pair.first


def say_method(statistics: Statistics, words: Words) -> list[str]:
    """How p and the interval were found, a sentence each."""
    _ = words.translate
    tested = [pair for pair in statistics.pairs if pair.test is not None]
    if not tested:
        return []
    found = []
    permutation = tested[0].permutation
    if tested[0].test == "permutation" and permutation is not None:
        text = (
            _("p: two-sided permutation test over all {n} arrangements.")
            if permutation.exact
            else _("p: two-sided permutation test over {n} arrangements, drawn with a fixed seed.")
        )
        found.append(text.format(n=f"{permutation.arrangements:,}"))
    else:
        found.append(_("p: Welch's t-test, two-sided."))
    intervals = {pair.interval for pair in tested}
    if "bootstrap-t" in intervals:
        found.append(_("Interval: 95 %, studentized bootstrap."))
    elif "welch" in intervals:
        found.append(_("Interval: 95 %, Welch's t."))
    if len(tested) > 1:
        found.append(_("p is corrected for {n} comparisons after Holm.").format(n=len(tested)))
    return found


def say_left_out(statistics: Statistics, names: Mapping[str, str], words: Words) -> list[str]:
    """A line a reason: the runs whose values do not count."""
    _ = words.translate
    texts = {
        "queued": _("Not counted, not begun yet: {runs}."),
        "running": _("Not counted, still training: {runs}."),
        "paused": _("Not counted, paused: {runs}."),
        "failed": _("Not counted, failed: {runs}."),
        "canceled": _("Not counted, canceled: {runs}."),
        "no_value": _("Not counted, did not measure this: {runs}."),
        "not_finite": _("Not counted, not a finite number: {runs}."),
    }
    by_reason: dict[str, list[str]] = {}
    for one in statistics.left_out:
        by_reason.setdefault(one.reason, []).append(names.get(one.run, one.run))
    return [texts[reason].format(runs=_(", ").join(runs)) for reason, runs in by_reason.items()]


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if abs(value) < 1e9 else f"{value:.4g}"


def _digits(value: float) -> int:
    """Decimals that leave three significant digits."""
    return 0 if value == 0 else min(12, max(0, 2 - math.floor(math.log10(abs(value)))))
