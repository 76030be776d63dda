"""Statistics over seeds: against scipy.stats, at their promised rates, and defined at every edge."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from app.chunks import Floats
from app.compare import Group, Pair, RunFacts, Sample, Statistics, judge, measure
from app.compare import resampling as r
from app.compare import statistics as s
from app.compare import welch as w
from tests.test_fairness import facts

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), min_size=2, max_size=7)


def sample(values: Sequence[float], name: str = "x", seeds: Sequence[int] | None = None) -> Sample:
    runs = tuple((f"{name}{i}",) for i in range(len(values)))
    group = Group({"model": name}, tuple(run for (run,) in runs), tuple(range(len(values))))
    return Sample(group, tuple(values), runs, None if seeds is None else tuple(seeds))


def pair_of(*groups: Sequence[float], direction: s.Direction | None = "higher") -> Pair:
    (pair,) = s.compare_groups([sample(g, str(i)) for i, g in enumerate(groups)], direction)
    return pair


# -- against scipy -------------------------------------------------------------------------------------------


@given(a=VALUES, b=VALUES)
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    x, y = np.array(a), np.array(b)
    ours = w.compare_means(x, y)
    assume(ours.error > 1e-6 * max(1, np.abs(x).max(), np.abs(y).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = stats.ttest_ind(x, y, equal_var=False)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert ours.interval() == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    a=st.lists(st.integers(0, 20), min_size=2, max_size=5),
    b=st.lists(st.integers(0, 20), min_size=2, max_size=5),
)
def test_the_permutation_test_counts_every_arrangement(a: list[int], b: list[int]) -> None:
    """Against a plain loop over all splits; whole numbers make ties, which must count as equally extreme."""
    x, y = np.array(a, float), np.array(b, float)
    values, n = np.concatenate([x, y]), len(x)

    def t(first: tuple[int, ...]) -> float:
        one, other = values[list(first)], np.delete(values, list(first))
        error = one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)
        gap = abs(one.mean() - other.mean())
        return gap / math.sqrt(error) if error > 1e-12 else math.inf if gap > 1e-9 else 0.0

    every = [t(first) for first in combinations(range(len(values)), n)]
    ours = r.permute(x, y)
    assert (ours.arrangements, ours.exact) == (math.comb(len(values), n), True)
    if values.std() > 0:
        assert ours.p == pytest.approx(np.mean([one >= every[0] * (1 - 1e-9) for one in every]))


def test_the_permutation_test_is_scipys_where_groups_are_equally_large() -> None:
    draw = np.random.default_rng(5)
    for n in (3, 4, 5):
        a, b = draw.normal(size=n), draw.normal(0.7, size=n)
        theirs = stats.permutation_test(
            (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True
        )
        assert r.permute(a, b).p == pytest.approx(theirs.pvalue)


def test_the_sign_flip_test_is_scipys() -> None:
    draw = np.random.default_rng(6)
    for n in (4, 8):
        differences = draw.normal(0.5, size=n)
        theirs = stats.permutation_test(
            (differences, np.zeros(n)),
            lambda x, y, axis: (x - y).mean(axis),
            permutation_type="samples",
            vectorized=True,
        )
        assert r.flip_signs(differences).p == pytest.approx(theirs.pvalue)
    drawn = r.flip_signs(draw.normal(0.2, size=20))
    assert not drawn.exact
    assert 0 < drawn.p <= 1


def test_drawn_arrangements_come_close_to_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(7)
    a, b = draw.normal(size=7), draw.normal(1.0, size=7)
    exact = r.permute(a, b)
    monkeypatch.setattr(r, "MAX_EXACT", 100)
    r._drawn_splits.cache_clear()
    drawn = r.permute(a, b)
    assert (exact.exact, drawn.exact, drawn.arrangements) == (True, False, 10_000)
    assert drawn.p == pytest.approx(exact.p, abs=0.01)
    assert r.permute(a, b) == drawn  # the same on every page view


def test_power_is_that_of_the_ordinary_t_test() -> None:
    """Cohen 1988, table 2.4.1: 64 a group for d = 0.5 and 26 for d = 0.8, at 5 % and power 0.8."""
    assert w.seeds_needed(0.5, 1.0, 1.0) == 64
    assert w.seeds_needed(0.8, 1.0, 1.0) == 26
    assert w.seeds_needed(0.0, 1.0, 1.0) is None
    assert w.seeds_needed(1e-6, 1.0, 1.0) is None
    assert w.seeds_needed(1e9, 1.0, 1.0) == 2
    assert w.detectable(1.0, 1.0, 64) == pytest.approx(0.499, abs=1e-3)
    assert w.detectable(0.0, 0.0, 5) is None


def test_the_power_statement_holds_in_simulation() -> None:
    draw = np.random.default_rng(8)
    difference = w.detectable(1.0, 2.0, 8)
    assert difference is not None
    a, b = draw.normal(0, 1, (2_000, 8)), draw.normal(difference, 2, (2_000, 8))
    found = np.mean([w.compare_means(x, y).p <= 0.05 for x, y in zip(a, b, strict=True)])
    assert found == pytest.approx(0.8, abs=0.03)


# -- promised rates ------------------------------------------------------------------------------------------

SPREADS = {
    "normal": lambda draw, shape: draw.normal(0.98, 0.002, shape),
    "skewed": lambda draw, shape: 1 - draw.gamma(2.0, 0.01, shape),  # as accuracies near 1 are
    "of ten thousand images": lambda draw, shape: draw.binomial(10_000, 0.98, shape) / 10_000,  # with ties
}


def false_alarms(a: Floats, b: Floats) -> float:
    """The share of pairs [S, n], [S, m] in which the product would say that there is a difference."""
    shown = [pair_of(x, y).shown for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert None not in shown
    return float(np.mean(np.array(shown)))


@pytest.fixture
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval and the power decide nothing, and take most of the time."""
    monkeypatch.setattr(s, "resample", lambda x, stream: None)
    monkeypatch.setattr(s, "seeds_needed", lambda *_: None)
    monkeypatch.setattr(s, "detectable", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("no_interval")
@pytest.mark.parametrize("spread", SPREADS)
def test_false_alarms_stay_within_five_plus_minus_one_percent(spread: str) -> None:
    """8,000 comparisons of two groups of five seeds that do not differ, by the sentence's own p.

    It is 12/252 = 4.8 % by construction; 2,000 would leave it within 4 to 6 % in 19 of 20 draws only.
    """
    draw = np.random.default_rng(2026)
    a, b = (SPREADS[spread](draw, (8_000, 5)) for _ in range(2))
    assert pair_of(a[0].tolist(), b[0].tolist()).test == "permutation"
    assert 0.04 <= false_alarms(a, b) <= 0.06


@pytest.mark.slow
@pytest.mark.usefixtures("no_interval")
@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (5, 3), (10, 4), (5, 5)])
def test_false_alarms_stay_rare_with_few_seeds_and_unequal_spreads(n: int, m: int) -> None:
    """The second, smaller group has up to three times the spread, where the permutation test alone gives 10 %."""
    draw = np.random.default_rng(2027)
    for ratio in (1.0, 3.0):
        a, b = draw.normal(0, 1, (2_000, n)), draw.normal(0, ratio, (2_000, m))
        assert false_alarms(a, b) <= (0.065 if ratio == 1 else 0.085)


@pytest.mark.slow
@pytest.mark.usefixtures("no_interval")
def test_the_correction_keeps_the_false_alarms_of_a_family() -> None:
    """Four groups of six seeds that do not differ: any alarm at all in at most 5 % of comparisons, and noise."""
    draw = np.random.default_rng(2028)
    alarms = 0
    for _ in range(1_000):
        groups = [sample(draw.normal(size=6).tolist(), str(i)) for i in range(4)]
        alarms += any(pair.shown for pair in s.compare_groups(groups, "higher"))
    assert alarms / 1_000 <= 0.065


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["normal", "skewed"])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_what_it_promises(spread: str, n: int) -> None:
    draw = np.random.default_rng(2029)
    a, b = (SPREADS[spread](draw, (500, n)) for _ in range(2))
    covered = 0
    for x, y in zip(a, b, strict=True):
        limits = r.bootstrap_t(x, y, r.resample(x, 0), r.resample(y, 1))
        assert limits is not None
        covered += limits[0] <= 0 <= limits[1]
    assert covered / 500 >= 0.92


# -- groups, pairs, corrections ------------------------------------------------------------------------------


def test_the_difference_in_the_issue_is_found() -> None:
    pair = pair_of([0.990, 0.992, 0.991, 0.9925, 0.9915], [0.9862, 0.9875, 0.988, 0.987, 0.9871])
    assert (pair.test, pair.shown, pair.better) == ("permutation", True, 0)
    assert pair.p == pytest.approx(2 / 252)
    assert pair.permutation == r.Permuted(2 / 252, 252, True)
    assert pair.low is not None
    assert pair.high is not None
    assert 0 < pair.low < pair.difference < pair.high
    assert (pair.interval, pair.p_adjusted) == ("bootstrap-t", pair.p)


def test_lower_is_better_for_a_loss_and_nothing_is_for_an_unknown_metric() -> None:
    low, high = [0.1, 0.11, 0.12], [0.2, 0.21, 0.22]
    assert pair_of(low, high, direction="lower").better == 0
    assert pair_of(low, high, direction="higher").better == 1
    assert pair_of(low, high, direction=None).better is None
    assert pair_of(low, low, direction="higher").better is None


def test_three_seeds_cannot_reach_five_percent_by_permutation_so_welch_decides() -> None:
    pair = pair_of([1.0, 1.1, 1.2], [2.0, 2.1, 2.3])
    assert r.smallest_p(3, 3) == pytest.approx(0.1)
    assert (pair.test, pair.shown) == ("welch", True)
    assert pair.p == pair.p_welch


def test_unequal_numbers_of_seeds_are_welchs() -> None:
    pair = pair_of([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [2.0, 2.1, 2.3, 2.2, 2.4])
    assert (pair.test, pair.permutation is not None) == ("welch", True)


def test_the_test_is_chosen_for_the_family_by_its_sizes() -> None:
    five = [sample([0.1, 0.2, 0.3, 0.4, 0.5], str(i)) for i in range(5)]
    assert {pair.test for pair in s.compare_groups(five[:4], None)} == {"permutation"}  # 6 x 2 / 252 < 5 %
    assert {pair.test for pair in s.compare_groups(five, None)} == {"welch"}  # 10 x 2 / 252 > 5 %
    assert {pair.test for pair in s.compare_groups(five, None, baseline=0)} == {"permutation"}


def test_holm_is_statsmodels_by_hand() -> None:
    """Holm 1979: 3 x 0.01, 2 x 0.02, 1 x 0.04, never falling."""
    pairs = [Pair(0, i, 0.0, None, p=p, test="welch") for i, p in enumerate([0.02, 0.04, 0.01])]
    assert [pair.p_adjusted for pair in s._correct(pairs)] == pytest.approx([0.04, 0.04, 0.03])


def test_a_baseline_is_compared_with_every_other_group() -> None:
    groups = [sample([float(i), i + 0.1, i + 0.3], str(i)) for i in range(4)]
    pairs = s.compare_groups(groups, "higher", baseline=2)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2), (1, 2), (3, 2)]
    assert len(s.compare_groups(groups, "higher")) == 6


def test_equal_seeds_are_paired_as_well() -> None:
    first, second = (
        sample([1.0, 2, 3, 4, 5, 6], "a", range(6)),
        sample([1.1, 2.2, 3.1, 4.3, 5.2, 6.1], "b", range(6)),
    )
    (pair,) = s.compare_groups([first, second], "higher")
    assert pair.paired == r.Permuted(2 / 64, 64, True)
    assert pair.p is not None
    assert pair.p > 0.5  # unpaired, the spread of the seeds hides the difference
    (pair,) = s.compare_groups([first, replace(second, seeds=tuple(range(1, 7)))], "higher")
    assert pair.paired is None


# -- edges ---------------------------------------------------------------------------------------------------


def test_one_seed_each_is_no_test() -> None:
    pair = pair_of([0.99], [0.98])
    assert pair.difference == pytest.approx(0.01)
    assert (pair.test, pair.p, pair.shown, pair.low, pair.effect) == (None,) * 5
    assert pair_of([0.99], [0.98, 0.97, 0.96]).test is None


def test_without_any_spread_only_the_permutation_test_speaks() -> None:
    pair = pair_of([0.99] * 5, [0.98] * 5)
    assert (pair.test, pair.shown) == ("permutation", True)
    assert pair.p == pytest.approx(2 / 252)
    assert (pair.low, pair.interval, pair.p_welch, pair.effect, pair.seeds_needed) == (None,) * 5
    pair = pair_of([0.99] * 3, [0.98] * 3)
    assert (pair.test, pair.shown) == ("permutation", False)
    assert pair.p == pytest.approx(0.1)
    pair = pair_of([0.99] * 5, [0.99] * 5)
    assert (pair.difference, pair.p, pair.shown, pair.better) == (0.0, 1.0, False, None)
    pair = pair_of([0.99] * 5, [0.98, 0.98, 0.98, 0.98, 0.97])
    assert (pair.shown, pair.low is not None) == (True, True)


@settings(max_examples=50, deadline=None)
@given(a=VALUES, b=VALUES, scale=st.sampled_from([1e-9, 1.0, 1e9]))
def test_everything_is_a_number_or_none(a: list[float], b: list[float], scale: float) -> None:
    pair = pair_of([x * scale for x in a], [y * scale for y in b])
    numbers = [pair.low, pair.high, pair.p, pair.p_adjusted, pair.p_welch, pair.effect, pair.detectable]
    assert all(number is None or math.isfinite(number) for number in numbers)
    assert pair.p is not None
    assert 0 < pair.p <= 1
    if pair.low is not None and pair.high is not None:
        assert pair.low <= pair.high


@settings(max_examples=50, deadline=None)
@given(a=VALUES, b=VALUES)
def test_the_order_of_the_groups_changes_signs_only(a: list[float], b: list[float]) -> None:
    one, other = pair_of(a, b), pair_of(b, a)
    assert one.difference == pytest.approx(-other.difference)
    assert one.p == pytest.approx(other.p)
    assert one.seeds_needed == other.seeds_needed
    assert one.better is None or other.better == 1 - one.better


def test_hundreds_of_runs_are_quick_enough() -> None:
    draw = np.random.default_rng(9)
    pair = pair_of(draw.normal(0, 1, 300).tolist(), draw.normal(0.5, 1, 300).tolist())
    assert (pair.shown, pair.permutation is not None and pair.permutation.exact) == (True, False)


# -- from runs -----------------------------------------------------------------------------------------------


def seeded(model: str, seeds: Sequence[int], **more: Any) -> list[RunFacts]:
    return [facts(f"{model}-{seed}", {"model": model, "seed": seed, **more}) for seed in seeds]


def measured(
    runs: Sequence[RunFacts], values: Mapping[str, float | None], baseline: str | None = None
) -> Statistics:
    return measure(
        runs, judge(runs), values, "val/accuracy", direction="higher", share=True, baseline=baseline
    )


def test_groups_are_the_verdicts_and_seeds_are_the_values() -> None:
    runs = seeded("lenet", range(3)) + seeded("resnet8", range(3))
    found = measured(runs, {run.id: i / 10 for i, run in enumerate(runs)})
    first, second = found.samples
    assert (first.group.values, first.values, first.runs[0]) == (
        {"model": "lenet"},
        (0.0, 0.1, 0.2),
        ("lenet-0",),
    )
    assert second.n == 3
    assert (second.mean or 0, second.std or 0) == pytest.approx((0.4, 0.1))
    assert found.pairs[0].paired is not None
    assert found.left_out == ()


def test_runs_that_did_not_finish_are_left_out_and_named() -> None:
    runs = seeded("lenet", range(6))
    states = ["failed", "running", "queued", "finished", "finished", "finished"]
    runs = [replace(run, state=state) for run, state in zip(runs, states, strict=True)]
    found = measured(runs, {"lenet-3": 0.5, "lenet-4": math.nan, "lenet-5": None})
    assert [(one.run, one.reason) for one in found.left_out] == [
        ("lenet-0", "failed"),
        ("lenet-1", "running"),
        ("lenet-2", "queued"),
        ("lenet-4", "not_finite"),
        ("lenet-5", "no_value"),
    ]
    assert [one.n for one in found.samples] == [1]


def test_repeats_of_a_seed_are_no_new_evidence() -> None:
    runs = seeded("lenet", range(2)) + seeded("resnet8", range(2))
    again = [replace(run, id=f"{run.id}-again") for run in runs[:2]]
    found = measured([*runs, *again], {run.id: float(i) for i, run in enumerate([*runs, *again])})
    first = found.samples[0]
    assert (first.values, first.runs[0]) == ((2.0, 3.0), ("lenet-0", "lenet-0-again"))


def test_scripts_that_do_not_say_their_seed_count_each() -> None:
    runs = [RunFacts(f"{m}{i}", kind="external", spec={"model": m}) for m in "ab" for i in range(3)]
    found = measured(runs, {run.id: float(i) for i, run in enumerate(runs)})
    assert [one.n for one in found.samples] == [3, 3]
    assert found.pairs[0].paired is None


def test_a_group_without_values_takes_part_in_no_pair() -> None:
    runs = seeded("lenet", range(2)) + seeded("resnet8", range(2)) + seeded("alexnet", range(2))
    found = measured(runs, {run.id: 0.5 for run in runs[:4]})
    assert [one.n for one in found.samples] == [2, 2, 0]
    assert found.samples[2].mean is None
    assert len(found.pairs) == 1


def test_too_many_groups_ask_for_a_baseline() -> None:
    runs = [facts(f"{lr}-{seed}", {"lr": 0.001 * lr, "seed": seed}) for lr in range(1, 26) for seed in (0, 1)]
    values = {run.id: float(i) for i, run in enumerate(runs)}
    assert (measured(runs, values).crowded, measured(runs, values).pairs) == (True, ())
    found = measured(runs, values, baseline="1-0")
    assert (found.crowded, len(found.pairs)) == (False, 24)


def test_one_group_or_none_has_no_pairs() -> None:
    runs = seeded("lenet", range(3))
    assert measured(runs, {run.id: 0.5 for run in runs}).pairs == ()
    assert measured([], {}).samples == ()
