"""A grid file as what it stands for: the cells to train, in which rounds, under which name.

`Grid.load` reads and checks a file (`reader.py`); `cells` multiplies its axes once data and devices are
known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Cell, Component, Training
from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, Problems
from mnistbench.grid.axes import Axes, BatchSize, Devices, Pattern, size
from mnistbench.grid.select import select, shard
from mnistbench.grid.tune import Tuning

__all__ = ["MAX_CELLS", "Grid", "component_from_text", "rounds", "select", "shard"]

MAX_CELLS = 100_000


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid file that was read and found right.

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
    twins: int = 1
    on_missing_device: Literal["error", "skip"] = "error"
    tune: Tuning | None = None
    max_cells: int = MAX_CELLS
    source: str = field(default="grid", compare=False)
    batch_size_places: Mapping[BatchSize, Place] = field(default_factory=dict, compare=False)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        overrides: Sequence[str] = (),
        plugins: Plugins | None = None,
        max_cells: int = MAX_CELLS,
    ) -> Grid:
        """Read a grid file.

        Args:
            path: of a YAML file.
            overrides: `training.epochs=1`, as `--set` gives them.
            plugins: the modules whose names the grid may use.
            max_cells: a larger grid is refused before it is expanded.

        Raises:
            UserError: with one line per problem: `grid.yaml:3:1: unknown key …`.
        """
        from mnistbench.grid.yaml import read_text

        return cls.from_text(
            read_text(Path(path)), source=str(path), overrides=overrides, plugins=plugins, max_cells=max_cells
        )

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        source: str = "grid",
        overrides: Sequence[str] = (),
        plugins: Plugins | None = None,
        max_cells: int = MAX_CELLS,
    ) -> Grid:
        """Read a grid from YAML text; arguments and errors as `load`."""
        from mnistbench.grid.reader import read_grid

        return read_grid(text, source, overrides=overrides, plugins=plugins or Plugins(), max_cells=max_cells)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the product; an `include` may bring others."""
        return self.axes.seeds

    @property
    def devices(self) -> Devices:
        """As the grid says: `auto`, or names."""
        return self.axes.devices

    @property
    def batch_sizes(self) -> tuple[BatchSize, ...]:
        """As the grid says: numbers, and `full`."""
        return self.axes.batch_sizes

    @property
    def targets(self) -> tuple[float, ...]:
        """Every target accuracy that the grid asks about, in ascending order."""
        trainings = [item for axes in (self.axes, *self.include) for item in axes.values("training")]
        return tuple(sorted({target for item in trainings for target in Training(**item.options).targets}))

    @property
    def training(self) -> Training:
        """Epochs, loss and targets; the first of them, where a training option is an axis."""
        return next(Training(**item.options) for item in self.axes.values("training"))

    def count(self, devices: Sequence[str] = ("auto",)) -> int:
        """Number of cells, computed without expanding; `devices: auto` counts as one unless they are given."""
        included = sum(size(axes, (), 0, devices) for axes in self.include)
        return size(self.axes, self.exclude, self.twins, devices) + included

    def trial_count(self) -> int:
        """Number of cells that `tune` tries before those of `count`; 0 without it."""
        if self.tune is None:
            return 0
        once = replace(self.axes, devices=("cpu",), seeds=self.axes.seeds[:1])
        return size(once, (), 0) * self.tune.trials * len(self.tune.seeds)

    def cells(self, dataset: Component, train_examples: int, devices: Sequence[str]) -> list[Cell]:
        """Expand the grid.

        Args:
            dataset: the one really used, which may be the fallback.
            train_examples: in its training split; `full` is this, less what is held out for validation.
            devices: those to use where the grid says `auto`.

        Returns:
            Each cell once, twins (`repeat: 1`) directly behind their originals.

        Raises:
            UserError: if a batch is larger than the data, or more than `max_cells` come out.
        """
        if (count := self.count(devices)) > self.max_cells:
            raise UserError(too_large(self.source, count, self.max_cells))
        self._check_batch_sizes(dataset, train_examples)
        cells: dict[str, Cell] = {}
        twinned: dict[tuple[str, int], int] = {}
        for axes in (self.axes, *self.include):
            main = axes is self.axes
            for point in axes.product(devices):
                if main and any(pattern.matches(point) for pattern in self.exclude):
                    continue
                cell = _cell(dataset, train_examples, point)
                if cell.cell_id in cells:
                    continue
                cells[cell.cell_id] = cell
                key = (cell.device, cell.seed)
                if main and twinned.get(key, 0) < self.twins:
                    twinned[key] = twinned.get(key, 0) + 1
                    twin = replace(cell, repeat=1)
                    cells[twin.cell_id] = twin
        return list(cells.values())

    def check_data(self, dataset: str, classes: int) -> None:
        """Check the losses against data that has been read, which a plug-in's or a table's is only then.

        Args:
            dataset: its name.
            classes: outputs that it asks for; 1 is one output for a label of 0 or 1.

        Raises:
            UserError: if a loss does not fit them.
        """
        from mnistbench.grid.checks import check_losses

        problems = Problems()
        check_losses(self, dataset, classes, problems)
        problems.raise_if_any()

    def to_yaml(self) -> str:
        """The grid as resolved: overrides applied, what was left out filled in. Reading it gives the same cells."""
        from mnistbench.grid.writer import grid_to_yaml

        return grid_to_yaml(self)

    def _check_batch_sizes(self, dataset: Component, train_examples: int) -> None:
        from mnistbench.grid.checks import check_batches

        problems = Problems()
        check_batches(self, dataset.name, train_examples, problems)
        problems.raise_if_any()


def too_large(source: str, count: int, max_cells: int) -> str:
    """The message for a grid that would run for weeks by mistake."""
    return (
        f"{source}: this grid has {count:,} cells, more than {max_cells:,}; make an axis shorter, "
        f"exclude combinations, or allow it with `--max-cells {count}`"
    )


def rounds(cells: Sequence[Cell], seed: int) -> list[list[Cell]]:
    """Order cells for measuring: the r-th seed in round r, each round shuffled (PROTOCOL rule 2).

    Args:
        cells: of one grid.
        seed: of the shuffling. A cell's place among those of its round depends on nothing else than the two ids, so
            that what is left of a round keeps its order when it is resumed.
    """
    by_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(cell)
    return [sorted(group, key=lambda cell: _drawn(seed, cell)) for group in by_seed.values()]


def component_from_text(
    axis: Literal["dataset", "architecture", "optimizer", "schedule", "execution"],
    name: str,
    settings: Sequence[str] = (),
    plugins: Plugins | None = None,
) -> Component:
    """One component as the command line names it.

    Args:
        axis: whose names are looked up.
        name: `lenet5`, or `module:Name`.
        settings: its options: `activation=tanh`, `hidden=[128, 64]`.
        plugins: the modules whose names may be used.

    Raises:
        UserError: if the name or an option is unknown, or a value does not fit.
    """
    from mnistbench.grid.reader import read_component

    return read_component(axis, name, settings, plugins or Plugins())


def _drawn(seed: int, cell: Cell) -> str:
    return hashlib.sha256(f"{seed}/{cell.cell_id}".encode()).hexdigest()


def _cell(dataset: Component, train_examples: int, point: Mapping[str, Any]) -> Cell:
    optimizer, schedule = point["optimizer"]
    training = Training(**point["training"].options)
    batch = point["batch_size"]
    return Cell(
        dataset=dataset,
        architecture=point["architecture"],
        optimizer=optimizer,
        schedule=schedule,
        batch_size=train_examples - training.validation_examples if batch == "full" else batch,
        device=point["device"],
        seed=point["seed"],
        training=training,
        execution=point["execution"],
    )
