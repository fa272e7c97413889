"""Pairs of settings judged from blocks: against scipy, and rule by rule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mnistbench.report.estimator import (
    ENOUGH_CYCLES,
    SAME,
    Differences,
    Floats,
    cycles_wanted,
    holm,
    judge,
    level_of,
    ranks,
)


def all_pairs(settings: int) -> np.ndarray:
    return np.array(list(itertools.combinations(range(settings), 2)))


def judged(values: Floats, *, clean: np.ndarray | None = None, looks: np.ndarray | None = None) -> Differences:
    clean = np.isfinite(values) if clean is None else clean
    return judge(values, clean, np.zeros(len(values), int) if looks is None else looks, all_pairs(values.shape[1]))


def noisy(*means: float, cycles: int = 16, sd: float = 0.05, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    return np.array(means) + random.normal(0, sd, (cycles, len(means))) + random.normal(0, 0.3, (cycles, 1))


def test_one_pair_is_a_paired_t_test_at_four_per_cent() -> None:
    values = noisy(0.0, 0.02)
    (row,) = judged(values)
    theirs = stats.ttest_rel(values[:, 0], values[:, 1])
    ends = theirs.confidence_interval(0.96)
    assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high))
    assert (row["n"], row["level"]) == (16, 0.04)
    for shift in (0.0, theirs.confidence_interval(1 - 1e-9).high):
        values[:, 0] -= shift
        (row,) = judged(values)
        told = stats.ttest_rel(values[:, 0], values[:, 1]).pvalue <= 0.04
        assert (row["verdict"] in ("faster", "slower")) == told


def test_cycles_in_which_one_has_no_block_are_left_out() -> None:
    values = noisy(0.0, 0.1, cycles=20)
    values[3, 0] = values[7, 1] = np.nan
    both = np.isfinite(values).all(axis=1)
    theirs = stats.ttest_rel(values[both, 0], values[both, 1]).confidence_interval(0.96)
    (row,) = judged(values)
    assert (row["n"], row["low"]) == (18, pytest.approx(theirs.low))


def test_holm_steps_down_and_stops() -> None:
    """By hand: 0.04/4 = 0.01, 0.04/3 = 0.0133, 0.04/2 = 0.02, where it stops."""
    rejected, levels = holm(np.array([0.03, 0.001, 0.021, 0.0132]), 0.04)
    assert rejected.tolist() == [False, True, False, True]
    assert levels.tolist() == pytest.approx([0.02, 0.01, 0.02, 0.04 / 3])


def test_after_one_that_is_kept_holm_rejects_nothing() -> None:
    assert holm(np.array([0.02, 0.0201, 0.0399]), 0.04)[0].tolist() == [False] * 3


def test_nothing_is_no_hypothesis() -> None:
    assert holm(np.array([]), 0.04)[0].tolist() == []
    assert len(judge(np.empty((0, 0)), np.empty((0, 0), bool), np.empty(0, int), np.empty((0, 2), int))) == 0


def test_an_interval_is_at_the_level_of_its_own_step() -> None:
    rows = judged(noisy(0.0, 0.0, 1.0))
    by_p = sorted(rows, key=lambda row: -abs(row["estimate"]))
    assert [row["level"] for row in by_p] == pytest.approx([0.04 / 3, 0.04 / 2, 0.04])
    values = noisy(0.0, 0.0, 1.0)
    ends = stats.ttest_rel(values[:, 0], values[:, 1]).confidence_interval(0.96)
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx((ends.low, ends.high))


def test_same_is_an_interval_inside_ten_per_cent() -> None:
    values = noisy(0.0, 0.0, sd=0.02)
    values[:, 1] += (values[:, 0] - values[:, 1]).mean()
    (row,) = judged(values)
    assert (row["verdict"], max(-row["low"], row["high"]) < SAME) == ("same", True)
    values[:, 0] += 10 * (values[:, 0] - values[:, 1])
    (wide,) = judged(values)
    assert wide["verdict"] == "open"


@pytest.mark.parametrize(("cycles", "verdict"), [(ENOUGH_CYCLES - 1, ""), (ENOUGH_CYCLES, "slower")])
def test_below_ten_common_cycles_nothing_is_told(cycles: int, verdict: str) -> None:
    (row,) = judged(noisy(0.0, 1.0, cycles=cycles))
    assert row["verdict"] == verdict


def test_a_pair_that_is_not_judged_is_not_counted_by_holm() -> None:
    values = noisy(0.0, 0.1, 5.0)
    values[5:, 2] = np.nan
    rows = judged(values)
    assert rows[0]["level"] == 0.04
    assert [row["verdict"] for row in rows[1:]] == ["", ""]


def test_disturbed_blocks_count_as_missing() -> None:
    values = noisy(0.0, 0.0, cycles=20)
    clean = np.ones_like(values, dtype=bool)
    clean[:5, 0] = False
    values[:5, 0] -= 3.0
    (row,) = judged(values, clean=clean)
    assert (row["n"], bool(row["busy"])) == (15, False)
    assert abs(row["estimate"]) < 0.1


def test_a_pair_short_for_causes_alone_is_judged_on_all_blocks_and_marked() -> None:
    values = noisy(0.0, 1.0, cycles=16)
    clean = np.ones_like(values, dtype=bool)
    clean[:8, 0] = False
    (row,) = judged(values, clean=clean)
    assert (row["n"], bool(row["busy"]), row["verdict"]) == (16, True, "slower")
    values[:8, 1] = np.nan
    (row,) = judged(values, clean=clean)
    assert (row["n"], bool(row["busy"]), row["verdict"]) == (8, False, "")


def test_looks_spend_five_per_cent_together() -> None:
    spent = [level_of(look) for look in range(60)]
    assert spent[:4] == [0.04, 0.005, 0.0025, 0.00125]
    assert sum(spent) <= 0.05


def test_a_second_session_is_a_stricter_look() -> None:
    values = noisy(0.0, 0.02, cycles=32, sd=0.5, seed=1)
    looks = np.repeat([0, 1], 16)
    (row,) = judged(values, looks=looks)
    ends = stats.ttest_rel(values[:, 0], values[:, 1]).confidence_interval(0.995)
    assert (row["low"], row["high"], row["level"]) == pytest.approx((ends.low, ends.high, 0.005))


def test_what_a_look_has_proven_stays_proven() -> None:
    """A pair told at 4 % would be open at 0.5 %: another session must not take a verdict away."""
    values = noisy(0.0, 0.0, cycles=32)
    values[:, 1] -= (values[:16, 1] - values[:16, 0]).mean()
    gaps = values[:16, 0] - values[:16, 1]
    values[:16, 0] += stats.t.ppf(1 - 0.03 / 2, 15) * stats.sem(gaps)
    values[16:, 0] -= (values[16:, 0] - values[16:, 1]).mean()
    looks = np.repeat([0, 1], 16)
    assert judged(values[:16])["verdict"].tolist() == ["faster"]
    assert judged(values, looks=np.repeat([0, 1], [0, 32]))["verdict"].tolist() != ["faster"]
    assert judged(values, looks=looks)["verdict"].tolist() == ["faster"]


def test_ranks_have_ranges() -> None:
    """Of three, the first beats the third and nothing else is told."""
    pairs = all_pairs(3)
    verdicts = np.array(["open", "faster", "same"])
    assert ranks(verdicts, pairs, 3).tolist() == [[1, 2], [1, 3], [2, 3]]
    assert ranks(np.array(["slower"] * 3), pairs, 3).tolist() == [[3, 3], [2, 2], [1, 1]]


def test_settings_that_do_not_vary_at_all_are_told_apart_without_a_warning() -> None:
    values = np.tile([0.0, 0.0, 1.0], (12, 1))
    assert judged(values)["verdict"].tolist() == ["same", "slower", "slower"]


def test_so_many_more_cycles_settle_an_open_pair() -> None:
    rows = judged(noisy(0.0, 0.06, cycles=12, sd=0.15, seed=3))
    (row,) = rows
    assert row["verdict"] == "open"
    (more,) = cycles_wanted(rows, 1)
    wanted = max(abs(row["estimate"]), SAME - abs(row["estimate"]))
    deviation = (row["high"] - row["low"]) / 2 / stats.t.ppf(0.98, 11) * math.sqrt(12)
    halves = {n: stats.t.ppf(1 - 0.005 / 2, n - 1) * deviation / math.sqrt(n) for n in (12 + more, 11 + more)}
    assert halves[12 + more] <= wanted < halves[11 + more]
