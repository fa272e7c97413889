"""Which cells a run is about: the whole grid, the part that the command line asks for, and what this machine lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnistbench.axes import devices
from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError
from mnistbench.grid import select, tune

if TYPE_CHECKING:
    from mnistbench.grid.grid import Grid
    from mnistbench.results.records import CellRecord
    from mnistbench.run.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The cells of a grid on a machine, and those among them that are chosen.

    Attributes:
        dataset, train_examples: the data that is used, which may be the fallback.
        devices, absent: names that are there, and that the grid wants and are not.
        wanted: keys of the chosen cells; None for all.
    """

    grid: Grid
    dataset: Component
    train_examples: int
    devices: list[str]
    absent: list[str]
    wanted: frozenset[str] | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether learning rates are tried before cells are measured."""
        return self.grid.tune is not None

    def grid_cells(self) -> list[Cell]:
        """All cells as the grid file has them, before learning rates are tuned.

        Raises:
            UserError: if a batch is larger than the data, or there are too many cells.
        """
        return self.grid.cells(self.dataset, self.train_examples, self.devices)

    def trials(self) -> list[Cell]:
        """Cells that try learning rates, of chosen settings; none if the grid does not tune."""
        if not self.is_tuned:
            return []
        cells = tune.trial_cells(self.grid, self.dataset, self.train_examples, self.devices)
        if self.wanted is None:
            return cells
        settings = {key.partition("/")[0] for key in self.wanted}
        return [cell for cell in cells if tune.settings_key(cell) in settings]

    def measured(self, trials: Iterable[CellRecord]) -> list[Cell]:
        """All cells of the grid that are measured, as far as they can be named.

        Args:
            trials: records that fix the learning rates; not looked at if the grid does not tune.
        """
        if not self.is_tuned:
            return self.grid_cells()
        picked = tune.pick(self.grid, trials)
        return tune.final_cells(self.grid, picked, self.dataset, self.train_examples, self.devices)

    def chosen(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of the measured cells that the command line asks for."""
        return [cell for cell in cells if self.wanted is None or self._key(cell) in self.wanted]

    def tuning(self, cell: Cell) -> str | None:
        """What the cell's record says of how its learning rate came about; None if the grid does not tune."""
        return None if self.grid.tune is None else self.grid.tune.role(cell)

    def _key(self, cell: Cell) -> str:
        """What is known of a cell before its learning rate is."""
        if not self.is_tuned:
            return cell.cell_id
        return f"{tune.settings_key(cell)}/{cell.device}/{cell.seed}/{cell.repeat}"


def make_selection(
    grid: Grid,
    dataset: Component,
    train_examples: int,
    options: RunOptions,
    *,
    devices_there: Sequence[str] | None = None,
    on_missing: str | None = None,
) -> Selection:
    """Look at the devices and at the command line's conditions.

    Args:
        grid, options: of the run.
        dataset, train_examples: the data that is used.
        devices_there: the devices that cells can run on; this machine's if left out.
        on_missing: what is done about absent devices, in the place of the grid's own answer.

    Raises:
        UserError: for an absent device, a batch larger than the data, or conditions that match nothing.
    """
    here, absent = devices.resolve(grid.devices, on_missing=on_missing or grid.on_missing_device, here=devices_there)

    def select_cells(wanted: frozenset[str] | None) -> Selection:
        return Selection(
            grid=grid, dataset=dataset, train_examples=train_examples, devices=here, absent=absent, wanted=wanted
        )

    everything = select_cells(None)
    if not options.only and options.shard is None:
        return everything
    if options.shard is not None and everything.is_tuned:
        raise UserError("--shard does not go with `tune:`: the trials of a setting must come together to be judged")
    chosen = select.select(everything.grid_cells(), options.only)
    if options.shard is not None:
        chosen = select.shard(chosen, *options.shard)
    return select_cells(frozenset(everything._key(cell) for cell in chosen))
