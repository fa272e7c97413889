"""What a run does, stage by stage, and how it is told beforehand: the run itself takes its cells from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.axes import devices as axis
from mnistbench.cell import Cell
from mnistbench.data import datasets
from mnistbench.errors import UserError
from mnistbench.grid import grid as grids
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.index import Known, read_index, refuse_newer
from mnistbench.results.records import CellRecord
from mnistbench.run.budget import estimate, rounds_that_fit, seconds_by_setting
from mnistbench.run.cycles import CyclePlan, plan_cycles
from mnistbench.run.executors import ProcessExecutor, is_shared
from mnistbench.run.options import RunOptions
from mnistbench.run.selection import Selection, make_selection
from mnistbench.words.wording import plural, rough_time

if TYPE_CHECKING:
    from mnistbench.cell import Component
    from mnistbench.grid.grid import Grid


SEEDS_FOR_RANK_TEST, SEEDS_FOR_INTERVALS = 7, 10
"""From which on accuracy is compared (docs/statistics.md)."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """Cells that run one after the other before any cell of the next round (rule 2), each with its position."""

    number: int
    cells: Sequence[tuple[int, Cell]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Cells that are named together: those that try learning rates, or those that are measured.

    Attributes:
        cells: all of them, of which the run may be about a part.
        chosen: the part that the run is about.
        absent: chosen cells whose device is not there.
        kept: chosen cells that have their result.
        pending: chosen cells that run now.
        rounds: of all cells, in the order in which they run.
        speed: cycles that are lacking; None for cells that try learning rates, whose speed is not timed.
    """

    cells: list[Cell]
    chosen: list[Cell]
    absent: list[Cell]
    kept: list[Cell]
    pending: list[Cell]
    rounds: list[Round]
    speed: CyclePlan | None = None

    def pending_rounds(self) -> list[Round]:
        """The rounds as they run now."""
        return rounds_of(self.rounds, {cell.cell_id for cell in self.pending})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        selection: the cells that it is about.
        stages: those that can be named now; of a grid that tunes, the measured cells come when no trial is open.
        total: cells of the whole grid; those that fall together count once.
        measured_later: how many cells are measured once the trials have run; 0 where they are in `stages`.
        refusals: why `run` would not begin here.
        seconds: estimate for the pending cells, from earlier records; None if none of their settings ever ran.
        estimated_from: how many earlier results the estimate rests on.
        rounds_in_budget: how many rounds will run in the time that is given; None where nothing is known.
    """

    selection: Selection
    options: RunOptions
    stages: list[Stage]
    total: int
    measured_later: int
    refusals: list[str]
    seconds: float | None
    estimated_from: int
    rounds_in_budget: int | None

    @property
    def pending(self) -> list[Cell]:
        """The cells that run first, in their order."""
        return [cell for round_ in self.rounds for _, cell in round_.cells]

    @property
    def rounds(self) -> list[Round]:
        """In which they run."""
        return [round_ for stage in self.stages for round_ in stage.pending_rounds()]

    def lines(self) -> list[str]:
        """The plan as one reads it."""
        chosen = [cell for stage in self.stages for cell in stage.chosen]
        kept = sum(len(stage.kept) for stage in self.stages)
        absent = sum(len(stage.absent) for stage in self.stages)
        where = f" on {', '.join(sorted({cell.device for cell in chosen}))}" if chosen else ""
        rounds = plural(len(self.rounds), "round")
        counted = f"trainings: {len(self.pending):,} to run in {rounds}{where}; {kept:,} have a result"
        speed = self._speed_lines()
        lines = [*(f"`run` would refuse: {reason}" for reason in self.refusals), *speed, counted]
        if absent:
            lines.append(f"{plural(absent, 'cell')} of devices that are not here: {', '.join(self.selection.absent)}")
        if self.options.shard is not None:
            part, parts = self.options.shard
            lines.append(f"part {part} of {parts} has {self._settings()}, each with all its seeds")
        if self.measured_later:
            later = plural(self.measured_later, "cell")
            lines.append(
                f"these try learning rates; with what they find, up to {later} will be measured on fresh seeds"
            )
        return lines + (self._time_lines() if self.pending else [])

    def cell_lines(self) -> list[str]:
        """Each cell, with what would be done about it."""
        lines = []
        for stage in self.stages:
            done = {cell.cell_id: "skip" for cell in stage.absent} | {cell.cell_id: "kept" for cell in stage.kept}
            lines += [f"{cell.cell_id}  {done.get(cell.cell_id, 'run '):4}  {cell.label}" for cell in stage.chosen]
        return lines

    def _speed_lines(self) -> list[str]:
        """Cycles, the gate before them, and what a grid of so many seeds will be able to tell."""
        cycles = next((stage.speed for stage in self.stages if stage.speed is not None), None)
        if cycles is None:
            return ["speed is timed when the learning rates are found"] if self.selection.grid.speed else []
        lines = [cycles.line()] if cycles.line() else []
        if cycles.is_open:
            settings = plural(len(cycles.cells), "setting")
            lines.append(f"before them: the choice of kernels and the equivalence gate of {settings}")
        if cycles.cells:
            seeds = Counter(cell.without_seed() for stage in self.stages for cell in stage.chosen).values()
            fewer = f"{min(seeds)} to " if min(seeds) < max(seeds) else ""  # some included with a seed of their own
            lines.append(f"{fewer}{plural(max(seeds), 'seed')}: {_what_seeds_tell(min(seeds))}")
        return lines

    def _settings(self) -> str:
        def count(cells: list[Cell]) -> int:
            return len({cell.without_seed() for cell in cells})

        (stage,) = self.stages  # parts are of grids that do not tune
        return f"{count(stage.chosen)} of {plural(count(stage.cells), 'setting')}"

    def _time_lines(self) -> list[str]:
        if self.seconds is None:
            lines = ["no cell like these has run here: `run` says how long it takes after the first ones"]
        else:
            lines = [f"about {rough_time(self.seconds)}, judged by {plural(self.estimated_from, 'earlier result')}"]
        if self.options.budget_seconds is not None:
            fit = "nobody knows how many" if self.rounds_in_budget is None else f"about {self.rounds_in_budget}"
            budget = rough_time(self.options.budget_seconds)
            lines.append(f"budget {budget}: {fit} of {plural(len(self.rounds), 'round')} will be run")
        return lines


def _what_seeds_tell(seeds: int) -> str:
    """Rule 18: what is told of speed from cycles, and of accuracy from how many seeds."""
    if seeds >= SEEDS_FOR_INTERVALS:
        return "ranks of speed, of time to target, and of accuracy"
    if seeds >= SEEDS_FOR_RANK_TEST:
        return f"ranks of speed and time to target, a test of accuracy; intervals of it from {SEEDS_FOR_INTERVALS}"
    return f"ranks of speed and time to target for these seeds; of accuracy from {SEEDS_FOR_RANK_TEST}"


def stages(
    selection: Selection,
    index: Mapping[str, Known],
    trial_records: Callable[[Sequence[Cell]], list[CellRecord]],
    plan_speed: Callable[[Sequence[Cell]], CyclePlan],
    *,
    force: bool = False,
) -> Iterator[Stage]:
    """The stages of a run; each is made when it is asked for, so that it knows what the one before it has recorded.

    Args:
        selection: the cells that the run is about.
        index: what is known of each cell; read anew for each stage.
        trial_records: gives the records of cells that tried learning rates.
        plan_speed: says which cycles the settings of cells that are measured lack.
        force: run cells again that have a result.
    """
    trials = selection.trials()
    if trials:
        yield _stage(selection, trials, trials, index, force=force, first_round=0)
    measured = selection.measured(trial_records(trials))
    first_round = len({cell.seed for cell in trials})
    stage = _stage(selection, measured, selection.chosen(measured), index, force=force, first_round=first_round)
    yield replace(stage, speed=plan_speed([*stage.kept, *stage.pending]))


def has_result(cell: Cell, index: Mapping[str, Known]) -> bool:
    """Whether a cell has its answer, and is not run again without `force`."""
    return cell.cell_id in index and index[cell.cell_id].is_result


def mark_older_data(index: MutableMapping[str, Known], sha256: str) -> None:
    """Mark records of a CSV file that an older release read otherwise, which made other data of it."""
    for cell_id, known in index.items():
        if known.older_data not in (None, sha256):
            index[cell_id] = replace(known, outdated="a CSV file that this release reads otherwise")


def records_of(results: ResultsFolder, cells: Sequence[Cell]) -> list[CellRecord]:
    """The records that count of these cells, as far as there are any."""
    records = (results.record(cell.cell_id) for cell in cells)
    return [record for record in records if record is not None]


def speed_of(
    results: ResultsFolder, grid: Grid, options: RunOptions, sha256: str | None, cells: Sequence[Cell]
) -> CyclePlan:
    """The cycles that the settings of these cells lack."""
    planned = grid.speed if options.speed else None
    executor = options.executor
    if executor != "process" and not (isinstance(executor, ProcessExecutor) and executor.times_blocks):
        planned = None  # a block needs a fresh process of this machine
    return plan_cycles(results, cells, planned, data=sha256, force=options.force)


def in_rounds(cells: Sequence[Cell], seed: int = 0, first: int = 0) -> list[Round]:
    """The rounds of a grid: the r-th seed in round r, shuffled; within a round, cells that run alone go first."""
    return [
        Round(number=number, cells=list(enumerate(sorted(group, key=is_shared))))
        for number, group in enumerate(grids.rounds(cells, seed), start=first)
    ]


def rounds_of(rounds: Sequence[Round], cell_ids: Set[str]) -> list[Round]:
    """The rounds with these of their cells, the others' positions free; rounds without any are left out."""
    parts = [
        replace(round_, cells=[(position, cell) for position, cell in round_.cells if cell.cell_id in cell_ids])
        for round_ in rounds
    ]
    return [part for part in parts if part.cells]


def count(grid: Grid, devices: Sequence[str] | None = None) -> int:
    """Number of cells, without expanding them: a million are counted at once."""
    return grid.count(list(devices) if devices else axis.resolve(grid.devices, on_missing="skip")[0])


def make_plan(grid: Grid, options: RunOptions | None = None, *, devices: Sequence[str] | None = None) -> Plan:
    """Look at what `run_grid` would do with the same options; nothing is trained, downloaded or written.

    Args:
        grid, options: as for `run_grid`; no executor is asked.
        devices: of the machine that will run it; this machine's if left out.

    Raises:
        UserError: for conditions that match nothing and batches larger than the data. What else `run_grid` would refuse
            is in `refusals`.
    """
    options = options or RunOptions()
    results = options.results(grid.name)
    dataset, examples, sha256 = _data(grid, options)
    selection = make_selection(grid, dataset, examples, options, devices_there=devices, on_missing="skip")
    index = read_index(results)[0]
    if sha256 is not None:
        mark_older_data(index, sha256)
    known_stages = []
    plan_speed = partial(speed_of, results, grid, options, sha256)
    for stage in stages(selection, index, partial(records_of, results), plan_speed, force=options.force):
        known_stages.append(stage)
        if stage.pending:  # what follows depends on what they come to
            break
    rounds = [[cell for _, cell in round_.cells] for stage in known_stages for round_ in stage.pending_rounds()]
    pending = [cell for cells in rounds for cell in cells]
    earlier = _known_nearby(results, index)
    seconds_known = seconds_by_setting(earlier)
    seconds, budget = estimate(pending, seconds_known), options.budget_seconds
    if seconds is not None:  # a round of settings that never ran takes as long as the others
        seconds_known = {cell.without_seed(): seconds / len(pending) for cell in pending} | seconds_known
    is_open = selection.is_tuned and len(known_stages) == 1
    later = [cell for cell in selection.chosen(selection.grid_cells()) if cell.device not in selection.absent]
    return Plan(
        selection=selection,
        options=options,
        stages=known_stages,
        total=count(grid, devices) if selection.is_tuned else len(selection.grid_cells()),
        measured_later=len(later) if is_open else 0,
        refusals=_refusals(grid, results, devices),
        seconds=seconds,
        estimated_from=sum(known.is_result and known.seconds is not None for known in earlier),
        rounds_in_budget=None if budget is None else rounds_that_fit(rounds, seconds_known, budget),
    )


def _stage(
    selection: Selection,
    cells: list[Cell],
    chosen: list[Cell],
    index: Mapping[str, Known],
    *,
    force: bool,
    first_round: int,
) -> Stage:
    here = [cell for cell in chosen if cell.device not in selection.absent]
    pending = [cell for cell in here if force or not has_result(cell, index)]
    ids = {cell.cell_id for cell in pending}
    return Stage(
        cells=cells,
        chosen=chosen,
        absent=[cell for cell in chosen if cell.device in selection.absent],
        kept=[cell for cell in here if cell.cell_id not in ids],
        pending=pending,
        rounds=in_rounds(cells, first=first_round),
    )


def _data(grid: Grid, options: RunOptions) -> tuple[Component, int, str | None]:
    """The dataset that a run here would use, its training examples, and its checksum if it is here.

    It is not downloaded: what is known of it needs no files.
    """
    sizes = datasets.sizes(grid.dataset)
    if sizes is None or grid.fallback is not None:
        try:
            prepared = datasets.prepare(
                grid.dataset,
                data_dir=options.data_dir,
                fallback=grid.fallback,
                download=False,
                base=Path(grid.source).parent,
                plugins=options.plugins,
            )
        except UserError:
            if sizes is None:
                raise
        else:
            grid.check_data(prepared.component.name, prepared.spec.classes)
            return prepared.component, prepared.spec.train_examples, prepared.sha256
    assert sizes is not None
    return grid.dataset, sizes[0], datasets.cached_sha256(grid.dataset)


def _refusals(grid: Grid, results: ResultsFolder, devices: Sequence[str] | None) -> list[str]:
    """Why `run` would not begin, as far as that can be told without beginning."""
    checks: list[Callable[[], object]] = [
        partial(refuse_newer, results),
        results.refuse_foreign,
        partial(axis.resolve, grid.devices, on_missing=grid.on_missing_device, here=devices),
    ]
    reasons = []
    for check in checks:
        try:
            check()
        except UserError as error:
            reasons.append(str(error))
    return reasons


def _known_nearby(results: ResultsFolder, index: Mapping[str, Known]) -> list[Known]:
    """Records of this folder, and of the others beside it: the same settings take as long under another name."""
    known = list(index.values())
    if results.path.parent.is_dir():
        for other in sorted(results.path.parent.iterdir()):
            if other.name != results.name and (other / "cells").is_dir():
                known += read_index(ResultsFolder(other))[0].values()
    return known
