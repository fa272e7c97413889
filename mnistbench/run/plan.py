"""What a run would do, before it does it: which cells, which of them are done, how long the rest takes here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.cell import Cell
from mnistbench.errors import UserError
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.index import Known, read_index
from mnistbench.run.budget import estimate, rounds_that_fit, seconds_by_setting
from mnistbench.words.wording import plural, rough_time

if TYPE_CHECKING:
    from mnistbench.axes.plugins import Plugins
    from mnistbench.cell import Component
    from mnistbench.grid.grid import Grid
    from mnistbench.grid.resolved import ResolvedGrid


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        cells: those that the run is about, in the grid's order.
        pending: those of them without a result.
        rounds: how many rounds the pending ones make.
        seconds: estimate for the pending ones, from earlier records; None if none of their settings ever ran.
        estimated_from: how many earlier results the estimate rests on.
        total: cells of the whole grid, of which the run may be about a part; those that fall together count once.
        tuned: the cells are trials of learning rates; those to be measured follow from them.
        budget_seconds, rounds_in_budget: how many rounds will run in that time; None where nothing is known.
    """

    cells: list[Cell]
    pending: list[Cell]
    rounds: int
    seconds: float | None
    estimated_from: int
    total: int
    tuned: bool = False
    budget_seconds: float | None = None
    rounds_in_budget: int | None = None

    def lines(self) -> list[str]:
        """The plan as one reads it."""
        devices = sorted({cell.device for cell in self.cells})
        done = len(self.cells) - len(self.pending)
        said = [f"{len(self.pending):,} to run in {self.rounds} rounds on {', '.join(devices)}; {done:,} have a result"]
        if self.tuned:
            said.append("these try learning rates; the cells that are measured on fresh seeds follow from them")
        if not self.pending:
            return said
        if self.seconds is None:
            said.append("no cell like these has run here: `run` says how long it takes after the first ones")
        else:
            said.append(f"about {rough_time(self.seconds)}, judged by {plural(self.estimated_from, 'earlier result')}")
        if self.budget_seconds is not None:
            fit = "nobody knows how many" if self.rounds_in_budget is None else f"about {self.rounds_in_budget}"
            said.append(
                f"budget {rough_time(self.budget_seconds)}: {fit} of {plural(self.rounds, 'round')} will be run"
            )
        return said

    def cell_lines(self) -> list[str]:
        """Each cell, with what would be done about it."""
        pending = {cell.cell_id for cell in self.pending}
        return [f"{cell.cell_id}  {'run ' if cell.cell_id in pending else 'kept'}  {cell.label}" for cell in self.cells]


def count(grid: Grid | ResolvedGrid, devices: Sequence[str] | None = None) -> int:
    """Number of cells, without expanding them: a million are counted at once."""
    if isinstance(grid.cells, list):
        return len(grid.cells)
    from mnistbench.grid.grid import Grid

    assert isinstance(grid, Grid)
    return grid.count(_devices(grid, devices))


def plan(
    grid: Grid | ResolvedGrid,
    *,
    results: Path | None = None,
    devices: Sequence[str] | None = None,
    only: Sequence[str] = (),
    shard: tuple[int, int] | None = None,
    budget_seconds: float | None = None,
    data_dir: Path | None = None,
    plugins: Plugins | None = None,
) -> Plan:
    """Look at what a run would do; nothing is trained, downloaded or written.

    Args:
        grid: from `Grid.load`, or resolved elsewhere.
        results: the folder whose records count; `results/<name>` if left out.
        devices: of the machine that will run it; this machine's if left out.
        only, shard, budget_seconds, data_dir, plugins: as for `run_grid`.

    Raises:
        UserError: as `run_grid`.
    """
    from mnistbench.grid import select as selection

    cells = _cells(grid, devices, data_dir, plugins)
    tuned = getattr(grid, "tune", None) is not None
    total = count(grid, devices) if tuned else len(cells)
    if only:
        cells = selection.select(cells, only)
    if shard is not None:
        cells = selection.shard(cells, *shard)
    folder = ResultsFolder(results if results is not None else Path("results") / grid.name)
    index = read_index(folder)[0] if folder.cells.is_dir() else {}
    pending = [cell for cell in cells if not _has_result(cell, index)]
    earlier = _all_known(folder, index)
    seconds_known = seconds_by_setting(earlier)
    rounds = _rounds(pending)
    seconds_all = estimate(pending, seconds_known)
    if seconds_all is not None:  # a round of settings that never ran takes as long as the others
        seconds_known = {cell.without_seed(): seconds_all / len(pending) for cell in pending} | seconds_known
    return Plan(
        cells=cells,
        pending=pending,
        rounds=len(rounds),
        seconds=seconds_all,
        estimated_from=sum(1 for item in earlier if item.is_result and item.seconds is not None),
        budget_seconds=budget_seconds,
        tuned=tuned,
        total=total,
        rounds_in_budget=None if budget_seconds is None else rounds_that_fit(rounds, seconds_known, budget_seconds),
    )


def _cells(
    grid: Grid | ResolvedGrid, devices: Sequence[str] | None, data_dir: Path | None, plugins: Plugins | None
) -> list[Cell]:
    """All cells that can be named before anything runs; of a grid with `tune:` those that try learning rates."""
    from mnistbench.grid.resolved import ResolvedGrid

    if isinstance(grid, ResolvedGrid):
        return grid.cells
    dataset, examples = _data(grid, data_dir, plugins)
    if grid.tune is not None:
        from mnistbench.grid import tune as tuning

        return tuning.trial_cells(grid, dataset, examples, _devices(grid, devices))
    return grid.cells(dataset, examples, _devices(grid, devices))


def _data(grid: Grid, data_dir: Path | None, plugins: Plugins | None) -> tuple[Component, int]:
    """The dataset that a run here would use, without downloading it: what is known of it needs no files."""
    from mnistbench.data import datasets

    known = datasets.sizes(grid.dataset)
    if known is None or grid.fallback is not None:
        try:
            prepared = datasets.prepare(
                grid.dataset,
                data_dir=data_dir,
                fallback=grid.fallback,
                download=False,
                base=Path(grid.source).parent,
                plugins=plugins,
            )
        except UserError:
            if known is None:
                raise
        else:
            grid.check_data(prepared.component.name, prepared.spec.classes)
            return prepared.component, prepared.spec.train_examples
    assert known is not None
    return grid.dataset, known[0]


def _devices(grid: Grid, devices: Sequence[str] | None) -> list[str]:
    from mnistbench.axes import devices as here

    if devices:
        return list(devices)
    return here.resolve(grid.devices, on_missing="skip")[0] if grid.devices != "auto" else here.resolve("auto")[0]


def _has_result(cell: Cell, index: dict[str, Known]) -> bool:
    return cell.cell_id in index and index[cell.cell_id].is_result


def _all_known(folder: ResultsFolder, index: dict[str, Known]) -> list[Known]:
    """Records of this folder, and of the others beside it: the same settings take as long under another name."""
    known = list(index.values())
    if folder.path.parent.is_dir():
        for other in sorted(folder.path.parent.iterdir()):
            if other.name != folder.name and (other / "cells").is_dir():
                known += read_index(ResultsFolder(other))[0].values()
    return known


def write(grid: Grid | ResolvedGrid, planned: Plan, path: Path) -> None:
    """Write the planned cells for a machine without YAML reader and pydantic.

    Raises:
        UserError: if they were resolved before, are not known yet, or the file cannot be written.
    """
    from mnistbench.grid.grid import Grid
    from mnistbench.grid.resolved import write_resolved

    if not isinstance(grid, Grid):
        raise UserError("--resolved needs a grid file: this one is resolved already")
    if planned.tuned:
        raise UserError("--resolved does not go with `tune:`: what is measured is known only after the trials")
    write_resolved(grid, planned.cells, path)


def _rounds(cells: Sequence[Cell]) -> list[list[Cell]]:
    from mnistbench.grid.grid import rounds

    return rounds(cells, 0)
