"""Run a grid: find data and devices, see what is already there, run what is missing, and say how it went."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.cell import Cell
from mnistbench.data import datasets
from mnistbench.errors import UserError
from mnistbench.files.cache_folder import cache_folder
from mnistbench.files.whole import weaknesses
from mnistbench.results.folder import ResultsFolder, SetAside
from mnistbench.results.index import is_noisy, refuse_newer, save_index
from mnistbench.results.records import FAILURES
from mnistbench.results.this_machine import machine_id, recognized
from mnistbench.run.blocks import time_speed
from mnistbench.run.executors import Executor, InlineExecutor, ProcessExecutor
from mnistbench.run.interruption import Interruption
from mnistbench.run.options import RunOptions
from mnistbench.run.plan import Stage, has_result, mark_older_data, records_of, rounds_of, speed_of, stages
from mnistbench.run.selection import make_selection
from mnistbench.run.session import Session, record_skipped, run_rounds
from mnistbench.run.watchers import Watchers
from mnistbench.train.watcher import Ending, Remarks, Watcher
from mnistbench.words.wording import plural

if TYPE_CHECKING:
    from mnistbench.data.datasets import PreparedData
    from mnistbench.grid.grid import Grid


@dataclass(frozen=True, kw_only=True)
class RunSummary(Remarks):
    """How a run went, and what its watchers remarked at the end.

    Attributes:
        results: the folder with everything.
        counts: cells of the grid by status; `pending` are those without a record.
        ran: attempts made in this session.
        kept: cells of this run that had their result before.
        added, dropped: ids of cells that the grid has gained and lost since the last run in this folder.
        set_aside: files among the records that are none; their cells ran again.
        failed: how many of the cells that this run is about have failed, timed out or were killed; one that an
            interruption of this run ended has not failed.
        speed: which blocks of speed were taken and which are missing, in a line; None where none were asked for.
        left: how many of them have no result yet, failed ones included and skipped ones not.
        interrupted: the signal that ended it.
        warnings: what the user should read.
    """

    results: ResultsFolder
    counts: dict[str, int]
    ran: int
    kept: int
    added: list[str]
    dropped: list[str]
    set_aside: list[SetAside]
    failed: int
    left: int
    speed: str | None = None
    interrupted: int | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 complete; 1 some cells failed, timed out or were killed; 128 + the signal's number if interrupted."""
        if self.interrupted is not None:
            return 128 + self.interrupted
        return 1 if self.failed else 0


def run_grid(grid: Grid, options: RunOptions | None = None, watchers: Sequence[Watcher] = ()) -> RunSummary:
    """Train the cells of a grid that have no result yet.

    Args:
        grid: from `Grid.load`.
        options: the flags; the defaults if left out.
        watchers: are told what happens, and may take the records elsewhere; at the end in their order.

    Raises:
        KeyboardInterrupt: at Ctrl-C, when workers have ended and records are kept; not with `own_process`.
        UserError: for everything the user can mend: data, devices, conditions, a folder that cannot be written.
    """
    options = options or RunOptions()
    told = Watchers(watchers)
    results = options.results(grid.name)
    refuse_newer(results)
    results.refuse_foreign()
    executor = _executor(options)
    try:
        data = _prepare_data(grid, options, told)
        selection = make_selection(
            grid, data.component, data.spec.train_examples, options, devices_there=executor.devices()
        )
        results.create()
        with results.lock():
            interruption = Interruption(own_process=options.own_process, last_acts=told.last_acts)
            session = Session(
                options=options,
                selection=selection,
                executor=executor,
                watchers=told,
                interruption=interruption,
                results=results,
                prepared=data,
            )
            with interruption.watched(executor.stop):
                _make_room(session)
                _run_stages(session)
                interruption.records_kept = True
                summary = _finish(session)
        if summary.interrupted is not None and not options.own_process:
            raise KeyboardInterrupt(f"{plural(summary.left, 'cell')} left; the same call goes on")
        return summary
    finally:
        executor.close()
        told.end(None)


def _executor(options: RunOptions) -> Executor:
    if not isinstance(options.executor, str):
        return options.executor
    if options.executor == "process":
        return ProcessExecutor()
    if options.executor == "inline":
        if options.timeout_seconds is not None:
            raise UserError("--timeout needs a process to end: leave --executor inline out")
        return InlineExecutor()
    if options.executor == "ray":
        from mnistbench.run.ray import RayExecutor

        return RayExecutor(options.ray_address, plugins=options.plugins.names if options.plugins else ())
    raise UserError(f"unknown executor {options.executor}: there are process, inline and ray")


def _prepare_data(grid: Grid, options: RunOptions, watchers: Watchers) -> PreparedData:
    source = Path(grid.source)
    prepared = datasets.prepare(
        grid.dataset,
        data_dir=options.data_dir,
        fallback=grid.fallback,
        progress=watchers.download,
        base=source.parent if source.suffix else None,
        plugins=options.plugins,
    )
    grid.check_data(prepared.component.name, prepared.spec.classes)
    if prepared.fallback:
        watchers.say(
            f"NOT THE DATASET YOU ASKED FOR: {prepared.component.label} stands in for {grid.dataset.label}, which is"
            f" not here and could not be downloaded (`data fetch {grid.dataset.name}` says why)"
        )
    for warning in prepared.warnings:
        watchers.say(warning)
    return prepared


def _make_room(session: Session) -> None:
    """Clean up after earlier runs, and move what is among the records and is none out of their way."""
    session.results.clean()
    session.results.set_aside(other.file for other in session.set_aside)
    for other in session.set_aside:
        session.warn(f"set aside: {other.file.name}: {other.reason}")
    for other in session.foreign:
        session.warn(f"{other.file} is no record, and is left as it is: {other.reason}")
    _warn_of_other_machines(session)
    mark_older_data(session.index, session.data.sha256)


def _run_stages(session: Session) -> None:
    """Run what is missing: the trials if the grid tunes, the cells, then rounds in which noise was seen."""
    session.results.write_grid(session.selection.grid.to_yaml())
    records = partial(records_of, session.results)
    plan_speed = partial(speed_of, session.results, session.selection.grid, session.options, session.data.sha256)
    for stage in stages(session.selection, session.index, records, plan_speed, force=session.options.force):
        _name_cells(session, stage)
        with time_speed(session, stage.speed):
            if stage.pending and not session.ends:
                _begin(session, stage.pending)
                run_rounds(session, stage.pending_rounds())
    if session.options.rerun_noisy and not session.ends:
        _rerun_noisy(session, stage)


def _name_cells(session: Session, stage: Stage) -> None:
    """Make cells part of the grid, and say what is known of those that are chosen."""
    _warn_of_plugins_without_cells(session, stage.cells)
    session.cells += stage.cells
    session.chosen += stage.chosen
    session.results.write_cells(session.cells)
    record_skipped(session, stage.absent)
    _warn_of_other_tuning(session, stage.kept)
    session.kept += len(stage.kept)
    _warn_of_outdated(session, stage.pending)


def _warn_of_plugins_without_cells(session: Session, cells: Sequence[Cell]) -> None:
    plugins = session.options.plugins
    if plugins is None:
        return
    kinds = {tuple(part.name for part in cell.parts): cell for cell in cells}
    needed = {name for cell in kinds.values() for name in plugins.needed_by(cell)}
    for name in plugins.names:
        said = f"--plugin {name}: no cell of this grid names anything of it; all are trained without it"
        if name not in needed and said not in session.warnings:
            session.warn(said)


def _rerun_noisy(session: Session, stage: Stage) -> None:
    """Replace the whole round of a device in which noise was seen, once, whichever way it moves (rule 12)."""
    replaced = {record.cell_id for record in session.results.attempts() if is_noisy(record)}
    replacements = {known.cell_id for known in session.index.values() if known.noisy_rerun}
    noisy = replaced | {known.cell_id for known in session.index.values() if known.noisy} - replacements
    again = {cell.cell_id for cell in stage.chosen if has_result(cell, session.index)} - replacements
    disturbed: set[str] = set()
    for round_ in stage.rounds:
        devices = {cell.device for _, cell in round_.cells if cell.cell_id in noisy}
        disturbed |= {cell.cell_id for _, cell in round_.cells if cell.device in devices}
    rounds = rounds_of(stage.rounds, disturbed & again)
    if rounds:
        cells = [cell for round_ in rounds for _, cell in round_.cells]
        session.watchers.say(f"noise was seen: {plural(len(cells), 'cell')} to run once more, in whole rounds")
        _begin(session, cells)
        run_rounds(session, rounds, noisy_rerun=True)


def _begin(session: Session, cells: Sequence[Cell]) -> None:
    if cache_folder().is_dir() and not os.access(cache_folder(), os.W_OK):
        session.warn(
            f"the cache folder {cache_folder()} can only be read: what is measured once on a machine (choices of"
            " kernels, the equivalence gate) is not kept for later runs; MNISTBENCH_CACHE names another"
        )
    session.executor.prepare(cells)
    session.watchers.begin(len(cells), session.kept)


def _finish(session: Session) -> RunSummary:
    """Tell the watchers that all is written, and count."""
    results, index, before = session.results, session.index, session.cells_before
    ids = {cell.cell_id for cell in session.cells}
    dropped = sorted((before or set()) - ids | {cell_id for cell_id in index if cell_id not in ids})
    added = [cell.cell_id for cell in session.cells if before is not None and cell.cell_id not in before]
    retargeted = before is not None and results.targets() != session.targets_before
    changed = bool(session.ran or session.blocks or added or dropped or session.set_aside or retargeted)
    if changed or index.read:
        save_index(results, index.values())
    shown = frozenset(known.record_id for known in index.values() if known.status != "skipped")
    remarks = session.watchers.end(Ending(results=results, changed=changed, record_ids=shown))
    for text in (*remarks.warnings, *weaknesses):
        session.warn(text)
    told = {**vars(remarks), "warnings": session.warnings}
    return RunSummary(
        **told,
        results=results,
        counts=dict(Counter(index[cell_id].status if cell_id in index else "pending" for cell_id in ids)),
        ran=session.ran,
        kept=session.kept,
        added=added,
        dropped=dropped,
        set_aside=session.set_aside,
        failed=sum(_has_failed(session, cell) for cell in session.chosen),
        left=sum(not has_result(cell, index) and not _is_skipped(session, cell) for cell in session.chosen),
        speed=session.speed_line,
        interrupted=session.interruption.signum,
    )


def _is_skipped(session: Session, cell: Cell) -> bool:
    return cell.cell_id in session.index and session.index[cell.cell_id].status == "skipped"


def _has_failed(session: Session, cell: Cell) -> bool:
    """Whether it has no result, and its last attempt failed; an outdated result is none, and stays where it is."""
    known = session.index.get(cell.cell_id)
    if known is None or cell.cell_id in session.stopped:
        return False
    return known.status in FAILURES or (known.outdated is not None and cell.cell_id in session.failed_again)


def _warn_of_outdated(session: Session, pending: Iterable[Cell]) -> None:
    known = (session.index.get(cell.cell_id) for cell in pending)
    reasons = Counter(record.outdated for record in known if record is not None and record.outdated)
    if reasons:
        told = ", ".join(f"{count} with {reason}" for reason, count in reasons.items())
        session.warn(
            f"outdated, and run again: {plural(sum(reasons.values()), 'record')}. An older release could train"
            f" them wrongly ({told})"
        )


def _warn_of_other_tuning(session: Session, kept: Iterable[Cell]) -> None:
    others = sum(session.index[cell.cell_id].tuning != session.selection.tuning(cell) for cell in kept)
    if others:
        session.warn(f"kept, made before `tune:` changed, and marked so: {plural(others, 'record')}; --force reruns")


def _warn_of_other_machines(session: Session) -> None:
    machines = (known.machine_id for known in session.index.values())
    others = sum(machine is not None and recognized(machine) != machine_id() for machine in machines)
    if others:
        session.warn(f"of another machine, kept, and grouped apart: {plural(others, 'record')}")
    builds = {known.torch for known in session.index.values()} - {None, _torch_version()}
    if builds:
        session.warn(f"records here are of torch {', '.join(sorted(map(str, builds)))}: kept, and grouped apart")


def _torch_version() -> str | None:
    try:
        return metadata.version("torch").partition("+")[0]
    except metadata.PackageNotFoundError:
        return None
