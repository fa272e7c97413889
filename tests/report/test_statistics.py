"""Intervals, rank test and verdicts on accuracies, against references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mnistbench.report.statistics import (
    Difference,
    paired_difference,
    rank_test,
    share_interval,
    summarize,
    verdict_within,
    welch,
)


@pytest.mark.parametrize(
    ("values", "shown", "kind"),
    [
        ([3.0], (3.0, 3.0, 3.0), "one run"),
        ([2.0, 8.0], (4.0, 2.0, 8.0), "2 runs"),
        ([1.0, 5.0, 2.0], (2.0, 1.0, 5.0), "range of 3"),
        ([1.0, 2.0, math.inf], (2.0, 1.0, math.inf), "range of 3"),
        ([1.0, math.inf, math.inf], (math.inf, 1.0, math.inf), "range of 3"),
        ([4.0] * 6, (4.0, 4.0, 4.0), "range of 6"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, math.inf], (3.5, 1.0, math.inf), "range of 6"),
    ],
)
def test_what_is_shown_of_few_repeats(values: list[float], shown: tuple[float, ...], kind: str) -> None:
    """Rule 18, and rule 11: unreached seeds keep their place in medians."""
    interval = summarize(values)
    assert (interval.value, interval.low, interval.high) == pytest.approx(shown)
    assert interval.kind == kind


@pytest.mark.parametrize(("reached", "low", "high"), [(0, 0.0, 0.708), (2, 0.094, 0.992), (3, 0.292, 1.0)])
def test_the_share_of_three_seeds_has_the_exact_interval(reached: int, low: float, high: float) -> None:
    """Clopper–Pearson: the shares at which so many or more, and so many or fewer, have a chance of 2.5 %."""
    interval = share_interval(reached, 3)
    assert interval == pytest.approx((low, high), abs=5e-4)
    if reached:
        assert stats.binom.sf(reached - 1, 3, interval[0]) == pytest.approx(0.025)
    if reached < 3:
        assert stats.binom.cdf(reached, 3, interval[1]) == pytest.approx(0.025)


def test_five_to_nine_runs_have_a_t_interval_of_logarithms() -> None:
    values = [10.0, 11.0, 12.0, 13.0, 15.0]
    logs = np.log(values)
    low, high = stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs))
    shown = summarize(values)
    assert (shown.low, shown.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert shown.value == 12.0


def test_ten_runs_have_the_bca_interval_of_the_median() -> None:
    values = np.random.default_rng(3).lognormal(1, 0.2, 25)
    theirs = stats.bootstrap(
        (values,), np.median, method="BCa", n_resamples=20_000, random_state=np.random.default_rng(1)
    ).confidence_interval
    shown = summarize(values)
    width = theirs.high - theirs.low
    assert shown.low == pytest.approx(theirs.low, abs=0.2 * width)
    assert shown.high == pytest.approx(theirs.high, abs=0.2 * width)
    assert shown.kind == "95 % of 25 (BCa)"


def test_intervals_widen_with_the_number_of_pairs() -> None:
    one, many = (paired_difference([0.1, 0.12, 0.09, 0.1], comparisons=count) for count in (1, 28))
    assert many.high - many.low > 2 * (one.high - one.low)


def test_welch_agrees_with_scipy() -> None:
    a, b = [1.0, 2.0, 3.0, 4.5], [2.0, 5.0, 9.0]
    theirs = stats.ttest_ind(a, b, equal_var=False)
    ours = welch(np.array(a), np.array(b))
    interval = theirs.confidence_interval(0.95)
    assert (*ours.interval(0.05), ours.p) == pytest.approx((interval.low, interval.high, theirs.pvalue))


def test_welch_bears_samples_that_do_not_vary() -> None:
    found = welch(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    assert (found.p, found.interval(0.05)) == (0.0, (-1.0, -1.0))
    assert welch(np.array([1.0, 1.0]), np.array([1.0, 1.0])).p == 1.0


def test_a_paired_interval_agrees_with_scipy() -> None:
    gaps = np.array([0.3, 0.1, 0.2, 0.25])
    ends = stats.ttest_1samp(gaps, 0).confidence_interval(1 - 0.05 / 3)
    found = paired_difference(gaps, comparisons=3)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


@pytest.mark.parametrize(
    ("estimate", "low", "high", "verdict"),
    [
        (0.0, -0.01, 0.01, "same"),
        (0.01, 0.005, 0.015, "same"),
        (0.1, 0.05, 0.15, "better"),
        (-0.1, -0.15, -0.05, "worse"),
        (0.1, -0.01, 0.21, "open"),
        (0.018, 0.001, 0.035, "open"),
        (0.0, -0.1, 0.1, "open"),
    ],
)
def test_verdicts_on_accuracies(estimate: float, low: float, high: float, verdict: str) -> None:
    """Same inside the band; else the interval excludes 0 and the estimate is beyond the band."""
    assert verdict_within(Difference(estimate, low, high), 0.02) == verdict


def test_rank_test_agrees_with_scipy_where_nothing_is_tied() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0, 5.5], [2.5, 6.0, 7.0, 8.0, 9.0]
    assert rank_test(a, b) == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue)


def test_rank_test_is_exact_with_unreached_seeds_tied_last() -> None:
    """Against every one of the 252 ways to share out the pooled ranks."""
    a, b = [1.0, 2.0, 3.0, 4.0, math.inf], [5.0, math.inf, math.inf, math.inf, math.inf]
    ranks = stats.rankdata([*a, *b])
    sums = np.array([sum(ranks[list(chosen)]) for chosen in itertools.combinations(range(10), 5)])
    observed = ranks[:5].sum()
    expected = 2 * min((sums <= observed).mean(), (sums >= observed).mean())
    assert rank_test(a, b) == pytest.approx(expected)
    assert rank_test(b, a) == pytest.approx(expected)
    assert rank_test([math.inf] * 5, [math.inf] * 5) == 1.0
