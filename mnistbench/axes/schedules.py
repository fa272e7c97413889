"""Learning-rate schedules: pure functions of the step, so that every way of running a step can apply them.

A schedule gives the factor by which the cell's `lr` is multiplied at each step (counted from 0) of a training of
`total_steps`. It spans the whole training, whatever the batch size. Each may begin with a linear warm-up to its first
value; the curve itself then covers the steps that are left.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from mnistbench.axes.options import Fraction, NonNegativeInt, Positive, as_declared
from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Component
from mnistbench.errors import UserError
from mnistbench.errors.problems import shown


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A curve behind a warm-up.

    Attributes:
        warmup_steps, warmup_fraction: length of the linear warm-up, in steps or as a share of the training; at most
            all steps but the last.

    Raises:
        UserError: if both are given.
    """

    warmup_steps: NonNegativeInt = 0
    warmup_fraction: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps and self.warmup_fraction:
            raise UserError("give warmup_steps or warmup_fraction, not both")

    def factor(self, step: int, total_steps: int) -> float:
        """The factor of the learning rate at a step; 0 <= step < total_steps."""
        warmup = min(self.warmup_steps or round(self.warmup_fraction * total_steps), total_steps - 1)
        if step < warmup:
            return (step + 1) / warmup * self.curve(0, total_steps - warmup)
        return self.curve(step - warmup, total_steps - warmup)

    def curve(self, step: int, total: int) -> float:
        """The factor without warm-up, which `factor` shortens it by."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The same learning rate throughout."""

    @override
    def curve(self, step: int, total: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """Multiply by `gamma` at each milestone.

    Attributes:
        milestones: shares of the training.
        gamma: factor at each of them.
    """

    milestones: Sequence[Fraction] = (0.5, 0.75)
    gamma: Positive = 0.1

    @override
    def curve(self, step: int, total: int) -> float:
        passed = sum(step >= round(milestone * total) for milestone in self.milestones)
        return float(self.gamma**passed)


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """The same factor from each step to the next.

    Attributes:
        final: what the learning rate has been multiplied by at the end of the training.
    """

    final: Positive = 0.01

    @override
    def curve(self, step: int, total: int) -> float:
        return float(self.final ** (step / total))


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from 1 to `final`, without restarts (Loshchilov & Hutter 2016, arXiv:1608.03983).

    Attributes:
        final: factor that is approached at the end.
    """

    final: Fraction = 0.0

    @override
    def curve(self, step: int, total: int) -> float:
        return _cosine(1.0, self.final, step / total)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Up to `lr`, the peak, and down again, both along half a cosine (Smith & Topin 2017, arXiv:1708.07120).

    The curve is that of `torch.optim.lr_scheduler.OneCycleLR`. Momentum and betas stay as the optimizer has them,
    where torch's scheduler would cycle them too.

    Attributes:
        rise: share of the training on the way up.
        start: factor at the first step, to which a warm-up leads.
        final: factor at the last step.
    """

    rise: Fraction = 0.3
    start: Positive = 1 / 25
    final: Positive = 1 / 250_000

    @override
    def curve(self, step: int, total: int) -> float:
        peak, last = self.rise * total - 1, total - 1
        if step <= peak:
            return _cosine(self.start, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, self.final, (step - peak) / (last - peak))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "exponential": Exponential,
    "cosine": Cosine,
    "one_cycle": OneCycle,
}


def lr_factors(component: Component, total_steps: int, plugins: Plugins | None = None) -> list[float]:
    """The factor of the learning rate at each step; a plug-in's function is asked for each.

    Raises:
        UserError: if the schedule is unknown, or a plug-in's gives what no learning rate can be multiplied by.
    """
    if ":" in component.name:
        function: Any = (plugins or Plugins()).find(component.name)
        options = as_declared(function, component.options)
        return [_factor(component.name, step, function(step, total_steps, **options)) for step in range(total_steps)]
    if component.name not in SCHEDULES:
        raise UserError(f"unknown schedule {component.name!r}; there are {', '.join(SCHEDULES)}")
    schedule = SCHEDULES[component.name](**component.options)  # type: ignore[arg-type]
    return [schedule.factor(step, total_steps) for step in range(total_steps)]


def refuse_other_than_function(name: str, called: Callable[..., Any]) -> None:
    """What a plug-in's schedule must be: torch's schedulers hold an optimizer, and count steps or epochs.

    Raises:
        UserError: if it is a class, or cannot be called with a step and the number of steps.
    """
    with contextlib.suppress(TypeError, ValueError):
        inspect.signature(called).bind_partial(0, 1)
        if not inspect.isclass(called):
            return
    raise UserError(
        f"`{name}` is no schedule: write a function of `step` (from 0) and `total_steps` that gives the factor of `lr`"
    )


def _factor(name: str, step: int, value: Any) -> float:
    try:
        factor = float(value)
    except (TypeError, ValueError):
        factor = math.nan
    if not (math.isfinite(factor) and factor >= 0):
        raise UserError(
            f"{name} gives {shown(repr(value))} at step {step}; the factor of `lr` is a number that is not below 0"
        )
    return factor


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
