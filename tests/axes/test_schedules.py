"""Schedules: against torch's own where it has the same curve, and what warm-up does to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from mnistbench.axes.schedules import SCHEDULES, lr_factors
from mnistbench.cell import Component
from mnistbench.errors import UserError

TOTAL = 40
LR = 0.2


def torch_curve(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], total: int = TOTAL) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    factors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(total):
            factors.append(optimizer.param_groups[0]["lr"] / LR)
            optimizer.step()
            scheduler.step()
            if scheduler.last_epoch == total - 1:
                factors.append(optimizer.param_groups[0]["lr"] / LR)
                break
    return factors


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("constant", {}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        ("step", {"milestones": [0.5, 0.75], "gamma": 0.1}, lambda o: lr_scheduler.MultiStepLR(o, [20, 30], 0.1)),
        ("exponential", {"final": 0.01}, lambda o: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / TOTAL))),
        ("cosine", {}, lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL)),
        ("cosine", {"final": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1 * LR)),
        ("one_cycle", {}, lambda o: lr_scheduler.OneCycleLR(o, LR, TOTAL, cycle_momentum=False)),
        (
            "one_cycle",
            {"rise": 0.5, "start": 0.1, "final": 0.001},
            lambda o: lr_scheduler.OneCycleLR(
                o, LR, TOTAL, pct_start=0.5, div_factor=10, final_div_factor=100, cycle_momentum=False
            ),
        ),
    ],
)
def test_draws_the_curve_of_torch(name: str, options: dict[str, Any], theirs: Any) -> None:
    ours = lr_factors(Component(name=name, options=options), TOTAL)
    assert ours == pytest.approx(torch_curve(theirs), rel=1e-9, abs=1e-12)


def test_one_cycle_peaks_at_lr() -> None:
    factors = lr_factors(Component(name="one_cycle"), 100)
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) == 29


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_linearly_to_the_first_value_of_the_curve(name: str) -> None:
    plain = lr_factors(Component(name=name), 30)
    warmed = lr_factors(Component(name=name, options={"warmup_steps": 10}), 40)
    assert warmed[:10] == pytest.approx([(step + 1) / 10 * plain[0] for step in range(10)])
    assert warmed[10:] == plain


def test_warm_up_may_be_a_share_of_the_training() -> None:
    share = lr_factors(Component(name="cosine", options={"warmup_fraction": 0.25}), 40)
    assert share == lr_factors(Component(name="cosine", options={"warmup_steps": 10}), 40)


def test_a_warm_up_of_both_kinds_is_refused() -> None:
    with pytest.raises(UserError, match="not both"):
        lr_factors(Component(name="cosine", options={"warmup_fraction": 0.25, "warmup_steps": 10}), 40)


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    total=st.integers(1, 300),
    warmup=st.integers(0, 400),
)
def test_every_factor_is_a_share_of_the_peak(name: str, total: int, warmup: int) -> None:
    """Also for trainings of one step, and for a warm-up longer than the training."""
    factors = lr_factors(Component(name=name, options={"warmup_steps": warmup}), total)
    assert len(factors) == total
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="unknown schedule 'cosin'; there are constant"):
        lr_factors(Component(name="cosin"), 10)
