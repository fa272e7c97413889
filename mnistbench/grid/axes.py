"""The axes of a grid, their product, and the patterns that leave parts of it out.

The size of a product is computed, never counted out: a million cells take no longer than ten.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mnistbench.cell import Component
from mnistbench.errors.problems import Place
from mnistbench.grid.entries import Entry

BatchSize = int | Literal["full"]
Devices = Literal["auto"] | tuple[str, ...]
AXES = ("architecture", "optimizer", "batch_size", "training", "execution", "device", "seed")
"""The order of expansion: seeds vary fastest."""
MAX_LOOKS = 300_000
"""Bound on comparisons of a value with a pattern, and on steps of the counting; beyond it the full size counts."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What is multiplied. `devices` is `auto` until someone has looked which ones are there; `place` is in the file."""

    architectures: tuple[Entry, ...]
    optimizers: tuple[Entry, ...]
    batch_sizes: tuple[BatchSize, ...]
    trainings: tuple[Entry, ...]
    executions: tuple[Entry, ...]
    devices: Devices
    seeds: tuple[int, ...]
    place: Place = field(default=Place("grid"), compare=False)

    def values(self, axis: str, devices: Sequence[str] = ("auto",)) -> Iterator[Any]:
        """The values of one of `AXES`; for the optimizer, pairs of optimizer and schedule.

        Args:
            axis: its name.
            devices: those present, where the grid says `auto`.
        """
        if axis == "optimizer":
            return (pair for entry in self.optimizers for pair in entry.pairs())
        entries = {"architecture": self.architectures, "training": self.trainings, "execution": self.executions}
        if axis in entries:
            return (component for entry in entries[axis] for component in entry.components())
        present = tuple(devices) if self.devices == "auto" else self.devices
        return iter({"batch_size": self.batch_sizes, "device": present, "seed": self.seeds}[axis])

    def sizes(self, device_count: int = 1) -> dict[str, int]:
        """How long each axis is.

        Args:
            device_count: how many devices are present, where the grid says `auto`.
        """
        return {
            "architecture": sum(entry.count for entry in self.architectures),
            "optimizer": sum(entry.count for entry in self.optimizers),
            "batch_size": len(self.batch_sizes),
            "training": sum(entry.count for entry in self.trainings),
            "execution": sum(entry.count for entry in self.executions),
            "device": device_count if self.devices == "auto" else len(self.devices),
            "seed": len(self.seeds),
        }

    def product(self, devices: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every combination, as a mapping from `AXES` to a value."""
        for combination in itertools.product(*(list(self.values(axis, devices)) for axis in AXES)):
            yield dict(zip(AXES, combination, strict=True))


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """One entry of `exclude`: a combination matches if it is among the values of every axis named here."""

    place: Place
    architecture: tuple[Entry, ...] | None = None
    optimizer: tuple[Entry, ...] | None = None
    schedule: tuple[Entry, ...] | None = None
    training: tuple[Entry, ...] | None = None
    execution: tuple[Entry, ...] | None = None
    batch_size: tuple[BatchSize, ...] | None = None
    device: tuple[str, ...] | None = None
    seed: tuple[int, ...] | None = None

    def accepts(self, axis: str, value: Any) -> bool:
        """Whether this value of one axis is matched; an axis that is not named matches every value."""
        if axis == "optimizer":
            optimizer, schedule = value
            return _any_pair(self.optimizer, optimizer, schedule) and _any_entry(self.schedule, schedule)
        wanted = getattr(self, axis)
        if isinstance(value, Component):
            return _any_entry(wanted, value)
        return wanted is None or value in wanted

    def matches(self, combination: Mapping[str, Any]) -> bool:
        """Whether a combination is left out by this pattern."""
        return all(self.accepts(axis, value) for axis, value in combination.items())


def size(axes: Axes, exclude: Sequence[Pattern], twins: int, devices: Sequence[str] = ("auto",)) -> int:
    """Number of cells: the product, less what is excluded, plus the A/A twins of each device and seed.

    Exact while the axes are short enough to be looked through (`MAX_LOOKS`), else an upper bound.
    """
    lengths = axes.sizes(len(devices))
    rounds = lengths.pop("device") * lengths.pop("seed")
    if len(exclude) * sum(axes.sizes(len(devices)).values()) > MAX_LOOKS or not exclude:
        one = math.prod(lengths.values())
        return rounds * (one + min(twins, one))
    kinds = Counter({(1 << len(exclude)) - 1: 1})
    for axis in AXES[:-2]:
        more = _kinds(axes.values(axis), axis, exclude)
        if len(kinds) * len(more) > MAX_LOOKS:
            return size(axes, (), twins, devices)
        kinds = _combined(kinds, more)
    starts = _combined(
        _kinds(axes.values("device", devices), "device", exclude), _kinds(axes.values("seed"), "seed", exclude)
    )
    total = 0
    for start, times in starts.items():
        left = sum(count for matched, count in kinds.items() if not matched & start)
        total += times * (left + min(twins, left))
    return total


def excluded_by(axes: Axes, pattern: Pattern, devices: Sequence[str]) -> bool:
    """Whether a pattern leaves out anything at all."""
    return all(any(pattern.accepts(axis, value) for value in axes.values(axis, devices)) for axis in AXES)


def _kinds(values: Iterator[Any], axis: str, patterns: Sequence[Pattern]) -> Counter[int]:
    """How many values of an axis match which patterns; bit p of a key stands for pattern p."""
    return Counter(sum(pattern.accepts(axis, value) << bit for bit, pattern in enumerate(patterns)) for value in values)


def _combined(left: Counter[int], right: Counter[int]) -> Counter[int]:
    both: Counter[int] = Counter()
    for first, times in left.items():
        for second, more in right.items():
            both[first & second] += times * more
    return both


def _any_entry(wanted: tuple[Entry, ...] | None, component: Component) -> bool:
    return wanted is None or any(entry.accepts(component) for entry in wanted)


def _any_pair(wanted: tuple[Entry, ...] | None, optimizer: Component, schedule: Component) -> bool:
    return wanted is None or any(
        entry.accepts(optimizer) and _any_entry(entry.schedules or None, schedule) for entry in wanted
    )
