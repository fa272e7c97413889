"""Intervals, noise floor, rank test and verdicts, against references and against simulated noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import all_runs, make_cell, make_record

from mnistbench.report.statistics import (
    Difference,
    Spread,
    noise_floor,
    paired_difference,
    pooled_error,
    pooled_spread,
    rank_test,
    reached_interval,
    speed_verdict,
    summarize,
    twin_spread,
    unpaired_difference,
)
from mnistbench.report.verdicts import pairwise


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


def test_share_that_reached_has_the_exact_interval() -> None:
    """Clopper–Pearson by beta quantiles."""
    low, high = reached_interval(2, 3)
    assert low == pytest.approx(stats.beta.ppf(0.025, 2, 2))
    assert high == pytest.approx(stats.beta.ppf(0.975, 3, 1))
    assert reached_interval(0, 5)[0] == 0.0
    assert reached_interval(5, 5)[1] == 1.0


def test_pooled_spread_takes_cells_and_rounds_out() -> None:
    random = np.random.default_rng(0)
    table = random.normal(0, 0.01, (200, 6)) + random.normal(0, 0.5, (200, 1)) + np.arange(6.0)
    spread = pooled_spread(table)
    assert spread is not None
    assert spread.sd == pytest.approx(0.01, rel=0.1)
    assert spread.df == 199 * 5


def test_pooled_spread_bears_holes() -> None:
    table = np.random.default_rng(1).normal(0, 0.01, (50, 4))
    table[3, 2] = table[9, 0] = np.nan
    spread = pooled_spread(table)
    assert spread is not None
    assert spread.df == 49 * 3 - 2
    assert spread.sd == pytest.approx(0.01, rel=0.2)


def test_nothing_is_known_of_the_spread_of_one_round() -> None:
    assert pooled_spread(np.array([[1.0, 2.0, 3.0]])) is None


def test_standard_error_is_the_larger_of_pooled_and_own() -> None:
    """Rule 15."""
    steady, wild = [0.1, 0.1001, 0.0999], [0.0, 0.1, 0.2]
    pooled = pooled_error(Spread(0.01, 14), Spread(0.01, 14), 3)
    assert pooled is not None
    narrow, wide = (paired_difference(values, pooled=pooled) for values in (steady, wild))
    assert narrow.high - narrow.estimate == pytest.approx(stats.t.ppf(0.975, 14) * 0.01 * math.sqrt(2 / 3))
    assert wide.high - wide.estimate == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3))


def test_intervals_widen_with_the_number_of_pairs() -> None:
    one, many = (paired_difference([0.1, 0.12, 0.09, 0.1], pooled=None, comparisons=count) for count in (1, 28))
    assert many.high - many.low > 2 * (one.high - one.low)


def test_welch_agrees_with_scipy() -> None:
    a, b = [1.0, 2.0, 3.0, 4.5], [2.0, 5.0, 9.0]
    theirs = stats.ttest_ind(a, b, equal_var=False)
    ours = unpaired_difference(a, b)
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high, ours.p) == pytest.approx((interval.low, interval.high, theirs.pvalue))


@pytest.mark.parametrize(
    ("sd", "twins", "rounds", "floor"),
    [
        (0.001, [], 5, 0.02),
        (0.05, [], 8, 2 * 0.05 * math.sqrt(2 / 8)),
        (0.01, [0.2, -0.2], 8, 2 * 0.2 / math.sqrt(2) * math.sqrt(2 / 8)),
        (0.5, [0.01, -0.01] * 10, 4, 0.02),
        (0.0, [0.1, -0.1] * 10, 4, 0.05),
        (None, [], 3, 0.02),
    ],
)
def test_noise_floor(sd: float | None, twins: list[float], rounds: int, floor: float) -> None:
    """Rule 16: the larger of pooled and A/A, and from 20 pairs on their own 95th percentile."""
    assert noise_floor(sd, twins, rounds) == pytest.approx(floor)


def test_twins_tell_the_spread_of_a_single_run() -> None:
    gaps = np.random.default_rng(0).normal(0, 0.01, (5000, 2)) @ [1, -1]
    assert twin_spread(gaps) == pytest.approx(0.01, rel=0.05)
    assert twin_spread([]) is None


@pytest.mark.parametrize(
    ("estimate", "low", "high", "verdict"),
    [
        (0.0, -0.01, 0.01, "same"),
        (0.01, 0.005, 0.015, "same"),
        (0.1, 0.05, 0.15, "faster"),
        (-0.1, -0.15, -0.05, "slower"),
        (0.1, -0.01, 0.21, "unresolved"),
        (0.018, 0.001, 0.035, "unresolved"),
        (0.0, -0.1, 0.1, "unresolved"),
    ],
)
def test_verdicts(estimate: float, low: float, high: float, verdict: str) -> None:
    """Rule 17: same inside the floor; else the interval excludes 0 and the estimate is beyond the floor."""
    assert speed_verdict(Difference(estimate, low, high, 0.0), 0.02) == verdict


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


def _identical_grids(cells: int, rounds: int, sd: float, grids: int) -> Iterator[pd.DataFrame]:
    """Frames of grids whose cells have the same speed, one A/A twin a round; rounds drift as sessions do."""
    random = np.random.default_rng(17)
    frame = all_runs(
        make_record(make_cell(batch_size=64 + number, seed=seed, repeat=repeat))
        for seed in range(rounds)
        for number in range(cells)
        for repeat in ((0, 1) if number == 0 else (0,))
    )
    for _ in range(grids):
        drift = random.normal(0, 0.02, rounds)[frame["seed"]]
        yield frame.assign(examples_per_second=30_000 * np.exp(drift + random.normal(0, sd, len(frame))))


@pytest.mark.parametrize(("cells", "rounds", "sd"), [(8, 3, 0.01), (8, 3, 0.04), (13, 5, 0.04)])
def test_identical_cells_have_no_winner(cells: int, rounds: int, sd: float) -> None:
    """Rule 17: at most one such grid in twenty may name a cell faster than another."""
    grids = [pairwise(frame).frame for frame in _identical_grids(cells, rounds, sd, 200)]
    assert all(len(grid) == math.comb(cells, 2) for grid in grids)
    wrong = [bool(set(grid["verdict"]) & {"faster", "slower"}) for grid in grids]
    assert np.mean(wrong) <= 0.05


def test_the_same_cells_have_false_winners_without_the_rules() -> None:
    """The simulation would show it: plain t tests of every pair name a winner in most grids of 8 cells and 3 seeds."""
    wrong = 0
    for frame in _identical_grids(8, 3, 0.04, 100):
        table = frame[frame["repeat"] == 0].pivot_table(index="seed", columns="settings", values="examples_per_second")
        pairs = itertools.combinations(np.log(table.to_numpy()).T, 2)
        wrong += any(stats.ttest_rel(a, b).pvalue < 0.05 for a, b in pairs)
    assert wrong > 50


def test_a_real_difference_is_found() -> None:
    """The rules that keep identical cells apart from winners still see a cell that is 20 % faster."""
    random = np.random.default_rng(5)
    records = [
        make_record(
            make_cell(batch_size=64 + number, seed=seed),
            examples_per_second=30_000 * (1.2 if number == 0 else 1.0) * math.exp(random.normal(0, 0.005)),
        )
        for seed in range(5)
        for number in range(4)
    ]
    frame = pairwise(all_runs(records)).frame
    assert list(frame["verdict"]).count("faster") == 3
    assert frame.loc[frame["verdict"] == "faster", "ratio"].tolist() == pytest.approx([1.2] * 3, rel=0.02)
