"""The promise of the estimator, on simulated machines: at most one grid of equal settings in twenty names a winner."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from simulated_machines import MACHINES, false_winners, judged, names_a_winner, pairs_of, power, timed

GRIDS = 200
PROMISE = 0.05


@pytest.mark.slow
def test_equal_settings_have_no_winner() -> None:
    """Four machines, 2 to 24 settings, 10 to 24 cycles: 5 % plus three standard errors in each, 5 % over all."""
    found = false_winners(grids=GRIDS)
    assert len(found) == 4 * 4 * 3
    allowed = PROMISE + 3 * math.sqrt(PROMISE * (1 - PROMISE) / GRIDS)
    assert {case: share for case, share in found.items() if share > allowed} == {}
    assert np.mean(list(found.values())) <= PROMISE


def test_the_simulation_would_show_false_winners() -> None:
    """Without Holm a t test of each pair at 5 % names a winner in most grids of twelve equal settings."""
    values, _ = timed(MACHINES["quiet"], [1.0] * 12, grids=100, cycles=16, seconds=0.1, overhead=0.2, seed=1)
    first, second = pairs_of(12).T
    p = stats.ttest_rel(values[:, :, first], values[:, :, second], axis=1).pvalue
    assert (p < PROMISE).any(axis=1).mean() > 0.5


def test_more_sessions_do_not_add_false_winners() -> None:
    """Three looks at 16, 32 and 48 cycles, each of which may prove something."""
    values, clean = timed(MACHINES["quiet"], [1.0] * 6, grids=GRIDS, cycles=48, seconds=0.1, overhead=0.2, seed=2)
    told = judged(values, clean, np.repeat([0, 1, 2], 16))
    assert np.mean([names_a_winner(rows) for rows in told]) <= PROMISE + 3 * math.sqrt(PROMISE * 0.95 / GRIDS)


@pytest.mark.parametrize(
    ("machine", "cycles", "seconds", "overhead", "told"),
    [
        ("quiet", 19, 0.1, 0.2, {"1.1": 0.59, "1.2": 0.98, "1.5": 1.0, "3": 1.0, "all": 0.88}),
        ("quiet", 11, 0.2, 0.3, {"1.1": 0.34, "1.2": 0.90, "1.5": 1.0, "3": 1.0, "all": 0.84}),
        ("busy", 19, 0.1, 0.2, {"1.2": 0.37, "1.5": 0.92, "3": 1.0, "all": 0.72}),
        ("busy", 11, 0.2, 0.3, {"1.2": 0.18, "1.5": 0.71, "3": 0.96, "all": 0.60}),
    ],
)
def test_true_differences_are_told_as_often_as_the_protocol_was_chosen_for(
    machine: str, cycles: int, seconds: float, overhead: float, told: dict[str, float]
) -> None:
    """The cycles are those that fit into 180 s of machine beside three seeds of twelve settings."""
    found = power(MACHINES[machine], grids=500, cycles=cycles, seconds=seconds, overhead=overhead)
    assert {name: found[name] for name in told} == pytest.approx(told, abs=0.05)
    assert found["wrong"] <= PROMISE
