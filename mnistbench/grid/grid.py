"""A grid file as what it stands for: the cells to train, in which rounds, under which name.

`Grid.load` reads and checks a file (`read.py`); `cells` multiplies its axes once data and devices are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Cell, Component, Training
from mnistbench.errors import UserError
from mnistbench.errors.problems import Problems
from mnistbench.grid.checks import check_batches, check_losses
from mnistbench.grid.product import MAX_CELLS, Devices, GridFile, too_large
from mnistbench.grid.read import read_grid
from mnistbench.grid.writer import grid_to_yaml
from mnistbench.grid.yaml import read_text


class Grid(GridFile):
    """A grid file that was read and found right, and its cells."""

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
        file = read_grid(text, source, overrides=overrides, plugins=plugins or Plugins(), max_cells=max_cells)
        return cls(**vars(file))

    @property
    def devices(self) -> Devices:
        """As the grid says: `auto`, or names."""
        return self.axes.devices

    @property
    def targets(self) -> tuple[float, ...]:
        """Every target accuracy that the grid asks about, in ascending order."""
        trainings = [item for axes in (self.axes, *self.include) for item in axes.values("training")]
        return tuple(sorted({target for item in trainings for target in Training(**item.options).targets}))

    @property
    def training(self) -> Training:
        """Epochs, loss and targets; the first of them, where a training option is an axis."""
        return next(Training(**item.options) for item in self.axes.values("training"))

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
        problems = Problems()
        check_batches(self, dataset.name, train_examples, problems)
        problems.raise_if_any()
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
        problems = Problems()
        check_losses(self, dataset, classes, problems)
        problems.raise_if_any()

    def to_yaml(self) -> str:
        """The grid as resolved: overrides applied, what was left out filled in. Reading it gives the same cells."""
        return grid_to_yaml(self)


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
