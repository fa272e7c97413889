"""What a grid file stands for: entries of axes, their product, and the patterns that leave parts of it out.

`{name: sgd, lr: [0.1, 0.01]}` is one entry that stands for two components. The size of a product is computed, never
counted out: a million cells take no longer than ten.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mnistbench.cell import Cell, Component
from mnistbench.errors.problems import Place
from mnistbench.grid.options import Declaration, lr_of

BatchSize = int | Literal["full"]
Devices = Literal["auto"] | tuple[str, ...]
FIELDS = {
    "architecture": "architectures",
    "optimizer": "optimizers",
    "batch_size": "batch_sizes",
    "training": "trainings",
    "execution": "executions",
    "device": "devices",
    "seed": "seeds",
}
"""The axes, and the fields of `Axes` that hold their values, in the order of expansion: seeds vary fastest."""
AXES = tuple(FIELDS)
MAX_CELLS = 100_000
MAX_LOOKS = 300_000
"""Bound on comparisons of a value with a pattern, and on steps of the counting; beyond it the full size counts."""
DEFAULT_CYCLES = 16
TRIAL, TUNED, AS_GIVEN = "trial", "tuned", "as given"
"""How `checks["tuning"]` of a record begins; one without it was measured at the learning rate that the grid gives."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of an axis.

    Attributes:
        place: in the file.
        declaration: what its name takes.
        values: per option that is given, the alternatives.
        schedules: those nested in an optimizer; empty in an entry that says none.
    """

    place: Place
    declaration: Declaration
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    schedules: tuple[Entry, ...] = ()

    @property
    def name(self) -> str:
        """As the grid writes it."""
        return self.declaration.name

    @property
    def count(self) -> int:
        """How many components it stands for (optimizers: with their schedules), without making them."""
        return math.prod(map(len, self.values.values())) * (sum(schedule.count for schedule in self.schedules) or 1)

    def components(self) -> Iterator[Component]:
        """The components, without nested schedules; the last option varies fastest."""
        for choice in itertools.product(*self.values.values()):
            options = self.declaration.differing(dict(zip(self.values, choice, strict=True)))
            yield Component(name=self.name, options=options, sha256=self.declaration.sha256)

    def pairs(self) -> Iterator[tuple[Component, Component]]:
        """An optimizer's components, each with each of its schedules."""
        schedules = [item for schedule in self.schedules for item in schedule.components()]
        return itertools.product(self.components(), schedules or [Component(name="constant")])

    def accepts(self, component: Component) -> bool:
        """Whether the component has this name, and each option given here one of the values given."""
        if component.name != self.name:
            return False
        complete = self.declaration.complete(component.options)
        return all(complete.get(key) in values for key, values in self.values.items())

    def to_plain(self, key: str = "name") -> Any:
        """As YAML has it: the name alone, or a mapping with alternatives as lists."""
        options = self.options_to_plain()
        return {key: self.name, **options} if options else self.name

    def options_to_plain(self) -> dict[str, Any]:
        """The options as YAML has them, alternatives as lists."""
        values = dict(self.values)
        if self.schedules:
            values["schedule"] = [schedule.to_plain() for schedule in self.schedules]
        return {option: held[0] if len(held) == 1 else list(held) for option, held in values.items()}


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
        held = getattr(self, FIELDS[axis])
        if axis == "optimizer":
            return (pair for entry in held for pair in entry.pairs())
        if axis in ("architecture", "training", "execution"):
            return (component for entry in held for component in entry.components())
        return iter(devices if held == "auto" else held)

    def sizes(self, device_count: int = 1) -> dict[str, int]:
        """How long each axis is, without making its components.

        Args:
            device_count: how many devices are present, where the grid says `auto`.
        """
        held = {axis: getattr(self, field) for axis, field in FIELDS.items()}
        held["device"] = range(device_count) if self.devices == "auto" else self.devices
        return {
            axis: sum(value.count if isinstance(value, Entry) else 1 for value in values)
            for axis, values in held.items()
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


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The `tune:` of a grid.

    Attributes:
        learning_rates: to try, by the optimizer's name.
        trials: how many of them each optimizer gets; drawn with `seed` where it lists more.
        seeds: of the trials; none of the grid's own.
        validation_examples: held out of the training data, in the trials and in the measured cells alike.
        seed: of the drawing and of the order of the trials.
    """

    learning_rates: Mapping[str, tuple[float, ...]]
    trials: int
    seeds: tuple[int, ...] = (1000,)
    validation_examples: int = 10_000
    seed: int = 0

    def rates(self, optimizer: str) -> list[float]:
        """The rates that one optimizer tries, in the order in which they count as first, second, … trial."""
        listed = list(self.learning_rates[optimizer])
        random.Random(f"{self.seed}/{optimizer}").shuffle(
            listed
        )  # all of them: more trials keep the order of the first
        return listed[: self.trials]

    def role(self, cell: Cell) -> str:
        """What a cell's record says under `checks["tuning"]`: `trial 2`, or `tuned over 5 trials` if it is measured."""
        if cell.seed in self.seeds:
            return f"{TRIAL} {1 + self.rates(cell.optimizer.name).index(lr_of(cell.optimizer))}"
        return f"{TUNED} over {self.trials} {'trial' if self.trials == 1 else 'trials'}"


@dataclass(frozen=True, kw_only=True)
class GridFile:
    """What a grid file says.

    Attributes:
        name: of the experiment and of its results folder.
        dataset: what is asked for.
        fallback: what takes its place where it cannot be had.
        axes: what is multiplied.
        exclude: patterns of combinations that are left out.
        include: further products, mostly of one cell each.
        twins: how many cells per device run twice in each round (A/A).
        on_missing_device: whether a device that is absent is an error, or its cells are skipped.
        tune: how learning rates are picked before the cells are measured.
        speed: cycles of speed blocks; None where the file says `off`.
        max_cells: a larger grid is refused.
        source: name of the file.
        batch_size_places: where each batch size stands, for errors that need the data's size.
    """

    name: str
    dataset: Component
    fallback: Component | None = None
    axes: Axes
    exclude: tuple[Pattern, ...] = ()
    include: tuple[Axes, ...] = ()
    twins: int = 0
    on_missing_device: Literal["error", "skip"] = "error"
    tune: Tuning | None = None
    speed: int | None = DEFAULT_CYCLES
    max_cells: int = MAX_CELLS
    source: str = field(default="grid", compare=False)
    batch_size_places: Mapping[BatchSize, Place] = field(default_factory=dict, compare=False)

    def count(self, devices: Sequence[str] = ("auto",)) -> int:
        """Number of cells, computed without expanding; `devices: auto` counts as one unless they are given."""
        included = sum(size(axes, (), 0, devices) for axes in self.include)
        return size(self.axes, self.exclude, self.twins, devices) + included

    def trial_count(self) -> int:
        """Number of cells that `tune` tries before those of `count`; 0 without it."""
        if self.tune is None:
            return 0
        once = [replace(axes, devices=("cpu",), seeds=axes.seeds[:1]) for axes in (self.axes, *self.include)]
        return sum(size(axes, (), 0) for axes in once) * self.tune.trials * len(self.tune.seeds)


def too_large(source: str, count: int, max_cells: int) -> str:
    """The message for a grid that would run for weeks by mistake."""
    return (
        f"{source}: this grid has {count:,} cells, more than {max_cells:,}; make an axis shorter, "
        f"exclude combinations, or allow it with `--max-cells {count}`"
    )


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
