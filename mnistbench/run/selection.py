"""Which cells a run is about: the whole grid, the part that the command line asks for, and what this machine lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError

if TYPE_CHECKING:
    from mnistbench.grid.grid import Grid
    from mnistbench.grid.resolved import ResolvedGrid
    from mnistbench.results.records import CellRecord


@dataclass(frozen=True)
class Asked:
    """The cells of a grid on this machine, and those among them that are chosen.

    Attributes:
        devices, absent: names that are here, and that the grid wants and are not.
        wanted: keys of the chosen cells; None for all.
    """

    grid: Grid | ResolvedGrid
    dataset: Component
    train_examples: int
    devices: list[str]
    absent: list[str]
    wanted: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        grid: Grid | ResolvedGrid,
        dataset: Component,
        train_examples: int,
        *,
        only: Sequence[str] = (),
        shard: tuple[int, int] | None = None,
        devices_there: Sequence[str] | None = None,
    ) -> Asked:
        """Look at the devices (this machine's, if `devices_there` is left out) and at the command line's conditions.

        Raises:
            UserError: for an absent device, a batch larger than the data, or conditions that match nothing.
        """
        from mnistbench.axes import devices

        named = (
            list(dict.fromkeys(cell.device for cell in grid.cells)) if isinstance(grid.cells, list) else grid.devices
        )
        here, absent = devices.resolve(named, on_missing=grid.on_missing_device, here=devices_there)
        asked = cls(grid, dataset, train_examples, here, absent)
        if not only and shard is None:
            return asked
        from mnistbench.grid import select as selection

        if shard is not None and asked.is_tuned:
            raise UserError("--shard does not go with `tune:`: the trials of a setting must come together to be judged")
        chosen = selection.select(asked._grid_cells(), only)
        chosen = chosen if shard is None else selection.shard(chosen, *shard)
        return cls(grid, dataset, train_examples, here, absent, frozenset(map(asked._key, chosen)))

    @property
    def is_tuned(self) -> bool:
        """Whether learning rates are tried before cells are measured."""
        return getattr(self.grid, "tune", None) is not None

    def trials(self) -> list[Cell]:
        """Cells that try learning rates, of chosen settings; none if the grid does not tune."""
        if not self.is_tuned:
            return []
        from mnistbench.grid import tune as tuning

        cells = tuning.trial_cells(self._tuned, self.dataset, self.train_examples, self.devices)
        if self.wanted is None:
            return cells
        settings = {key.partition("/")[0] for key in self.wanted}
        return [cell for cell in cells if tuning.settings_key(cell) in settings]

    def cells(self, records: Iterable[CellRecord]) -> list[Cell]:
        """All cells of the grid that can be named now.

        Args:
            records: those of the trials, which fix the learning rates; not looked at if the grid does not tune.
        """
        if not self.is_tuned:
            return self._grid_cells()
        from mnistbench.grid import tune as tuning

        picked = tuning.pick(self._tuned, records)
        return tuning.final_cells(self._tuned, picked, self.dataset, self.train_examples, self.devices)

    def tuning(self, cell: Cell) -> str | None:
        """What the cell's record says of how its learning rate came about; None if the grid does not tune."""
        return self._tuned.tune.role(cell) if self.is_tuned and self._tuned.tune is not None else None

    def choose(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of `cells()` that the command line asks for."""
        return [cell for cell in cells if self.wanted is None or self._key(cell) in self.wanted]

    def _grid_cells(self) -> list[Cell]:
        if isinstance(self.grid.cells, list):
            return [cell for cell in self.grid.cells if cell.dataset == self.dataset] or self._other_dataset()
        return self.grid.cells(self.dataset, self.train_examples, self.devices)

    def _other_dataset(self) -> list[Cell]:
        raise UserError(f"the cells were resolved for another dataset than {self.dataset.label}, which is found here")

    def _key(self, cell: Cell) -> str:
        if not self.is_tuned:
            return cell.cell_id
        from mnistbench.grid.tune import settings_key

        return f"{settings_key(cell)}/{cell.device}/{cell.seed}/{cell.repeat}"

    @property
    def _tuned(self) -> Grid:
        from mnistbench.grid.grid import Grid

        assert isinstance(self.grid, Grid)
        return self.grid
