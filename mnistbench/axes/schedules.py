"""Learning-rate schedules: pure functions of the step, so that every way of running a step can apply them.

A schedule gives the factor by which the cell's `lr` is multiplied at each step (counted from 0) of a training of
`total_steps`. It spans the whole training, whatever the batch size. Each may begin with a linear warm-up to its first
value; the curve itself then covers the steps that are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mnistbench.axes.options import Fraction, NonNegativeInt, Positive
from mnistbench.cell import Component
from mnistbench.errors import UserError

Factor = Callable[[int, int], float]
"""(step, total_steps) -> factor of the learning rate; 0 <= step < total_steps."""


def constant(*, warmup_steps: NonNegativeInt = 0, warmup_fraction: Fraction = 0.0) -> Factor:
    """The same learning rate throughout.

    Args:
        warmup_steps, warmup_fraction: length of the linear warm-up, in steps or as a share of the training.
    """
    return _after_warmup(lambda step, total: 1.0, warmup_steps, warmup_fraction)


def step(
    *,
    milestones: Sequence[Fraction] = (0.5, 0.75),
    gamma: Positive = 0.1,
    warmup_steps: NonNegativeInt = 0,
    warmup_fraction: Fraction = 0.0,
) -> Factor:
    """Multiply by `gamma` at each milestone.

    Args:
        milestones: shares of the training.
        gamma: factor at each of them.
        warmup_steps, warmup_fraction: length of the linear warm-up, in steps or as a share of the training.
    """

    def curve(step: int, total: int) -> float:
        return gamma ** sum(step >= round(milestone * total) for milestone in milestones)

    return _after_warmup(curve, warmup_steps, warmup_fraction)


def exponential(*, final: Positive = 0.01, warmup_steps: NonNegativeInt = 0, warmup_fraction: Fraction = 0.0) -> Factor:
    """The same factor from each step to the next.

    Args:
        final: what the learning rate has been multiplied by at the end of the training.
        warmup_steps, warmup_fraction: length of the linear warm-up, in steps or as a share of the training.
    """
    return _after_warmup(lambda step, total: final ** (step / total), warmup_steps, warmup_fraction)


def cosine(*, final: Fraction = 0.0, warmup_steps: NonNegativeInt = 0, warmup_fraction: Fraction = 0.0) -> Factor:
    """Half a cosine from 1 to `final`, without restarts (Loshchilov & Hutter 2016, arXiv:1608.03983).

    Args:
        final: factor that is approached at the end.
        warmup_steps, warmup_fraction: length of the linear warm-up, in steps or as a share of the training.
    """
    return _after_warmup(lambda step, total: _cosine(1.0, final, step / total), warmup_steps, warmup_fraction)


def one_cycle(
    *,
    rise: Fraction = 0.3,
    start: Positive = 1 / 25,
    final: Positive = 1 / 250_000,
    warmup_steps: NonNegativeInt = 0,
    warmup_fraction: Fraction = 0.0,
) -> Factor:
    """Up to `lr`, the peak, and down again, both along half a cosine (Smith & Topin 2017, arXiv:1708.07120).

    The curve is that of `torch.optim.lr_scheduler.OneCycleLR`. Momentum and betas stay as the optimizer has them,
    where torch's scheduler would cycle them too.

    Args:
        rise: share of the training on the way up.
        start: factor at the first step.
        final: factor at the last step.
        warmup_steps, warmup_fraction: length of a linear warm-up to `start`, in steps or as a share of the training.
    """

    def curve(step: int, total: int) -> float:
        peak, last = rise * total - 1, total - 1
        if step <= peak:
            return _cosine(start, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, final, (step - peak) / (last - peak))

    return _after_warmup(curve, warmup_steps, warmup_fraction)


SCHEDULES: dict[str, Callable[..., Factor]] = {
    "constant": constant,
    "step": step,
    "exponential": exponential,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


def lr_factors(component: Component, total_steps: int) -> list[float]:
    """The factor of the learning rate at each step.

    Raises:
        UserError: if the schedule is unknown.
    """
    if component.name not in SCHEDULES:
        raise UserError(f"unknown schedule {component.name!r}; there are {', '.join(SCHEDULES)}")
    factor = SCHEDULES[component.name](**component.options)
    return [factor(step, total_steps) for step in range(total_steps)]


def _after_warmup(curve: Factor, steps: int, fraction: float) -> Factor:
    if steps and fraction:
        raise UserError("give warmup_steps or warmup_fraction, not both")

    def factor(step: int, total_steps: int) -> float:
        warmup = min(steps or round(fraction * total_steps), total_steps - 1)
        if step < warmup:
            return (step + 1) / warmup * curve(0, total_steps - warmup)
        return curve(step - warmup, total_steps - warmup)

    return factor


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
