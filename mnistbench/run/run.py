"""Run a grid: find data and devices, see what is already there, run what is missing, mirror it, and say how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mnistbench.cell import Cell
from mnistbench.errors import UserError
from mnistbench.files.whole import weaknesses
from mnistbench.results.folder import ResultsFolder, SetAside
from mnistbench.results.index import attempts_made, is_noisy, read_index, refuse_newer, save_index
from mnistbench.results.records import FAILURES, CellRecord, Data
from mnistbench.run.executors import Executor, InlineExecutor, ProcessExecutor
from mnistbench.run.interruption import Interruption
from mnistbench.run.progress import Progress, Silent
from mnistbench.run.selection import Asked
from mnistbench.run.session import Round, Session, Setup, in_rounds
from mnistbench.words.wording import plural

if TYPE_CHECKING:
    from mnistbench.axes.plugins import Plugins
    from mnistbench.data.datasets import PreparedData
    from mnistbench.grid.grid import Grid
    from mnistbench.grid.resolved import ResolvedGrid

WriteReport = Callable[[ResultsFolder], object]


class MirrorResult(Protocol):
    """What mirroring came to: `tracking.SyncResult`."""

    @property
    def failed(self) -> int:
        """Records that are not there."""
        ...

    @property
    def reason(self) -> str | None:
        """Why, in one line."""
        ...

    @property
    def note(self) -> str | None:
        """What is worth saying besides."""
        ...


class RecordMirror(Protocol):
    """Is told each record, and may take it elsewhere: `tracking.Mirror` does. The run knows no more of it.

    Attributes:
        address: as it may be shown.
        experiment: its name, where the user gave one.
    """

    address: str
    experiment: str | None

    def open(self) -> object:
        """Connect, before the first cell is timed."""
        ...

    def write(self, record: CellRecord) -> object:
        """Take one record; never raises because of a server."""
        ...

    def has_all(self, record_ids: set[str]) -> bool:
        """Whether all of these are there, without asking a server."""
        ...

    def finish(self) -> MirrorResult:
        """Take what is left, at the end."""
        ...


MakeMirror = Callable[[ResultsFolder, str], RecordMirror]
"""Given the results folder and the grid's name."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run went.

    Attributes:
        results: the folder with everything.
        counts: cells of the grid by status; `pending` are those without a record.
        ran: attempts made in this session.
        kept: cells of this run that had their result before.
        added, dropped: ids of cells that the grid has gained and lost since the last run in this folder.
        set_aside: files among the records that are none; their cells ran again.
        failed: how many of the cells that this run is about have failed, timed out or were killed; one that an
            interruption of this run ended has not failed.
        left: how many of them have no result yet, failed ones included and skipped ones not.
        not_mirrored: attempts that are not on the tracking server; `not_mirrored_reason` says why.
        tracking: the tracking server as it may be shown; None without one.
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
    not_mirrored: int = 0
    not_mirrored_reason: str | None = None
    tracking: str | None = None
    experiment: str | None = None
    interrupted: int | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 complete; 1 some cells failed, timed out or were killed; 128 + the signal's number if interrupted."""
        if self.interrupted is not None:
            return 128 + self.interrupted
        return 1 if self.failed else 0


def run_grid(
    grid: Grid | ResolvedGrid,
    *,
    out: Path | str | None = None,
    data_dir: Path | None = None,
    make_mirror: MakeMirror | None = None,
    executor: str | Executor = "process",
    timeout_seconds: float | None = None,
    fail_fast: bool = False,
    force: bool = False,
    only: Sequence[str] = (),
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    rerun_noisy: bool = False,
    shard: tuple[int, int] | None = None,
    budget_seconds: float | None = None,
    write_report: WriteReport | None = None,
    own_process: bool = False,
) -> RunSummary:
    """Train the cells of a grid that have no result yet.

    Args:
        grid: from `Grid.load`, or resolved elsewhere.
        out: results folder; `results/<name>` if left out.
        data_dir: where data is looked for first.
        make_mirror: makes what takes the records elsewhere; records only if left out.
        executor: `process`, `inline`, `ray`, or one of your own.
        timeout_seconds: longest for one cell.
        fail_fast: start no more cells after one that failed.
        force: run cells again that have a result; earlier attempts are kept.
        only: conditions such as `architecture=lenet5`, see `grid.select`.
        plugins: what `load_plugins` gave.
        progress: is told what happens; silent if left out.
        rerun_noisy: replace rounds in which noise was seen, once (rule 12).
        shard: `(2, 5)` runs the second of five parts.
        budget_seconds: start no new round after this time.
        write_report: called at the end, also after an interruption, to make what is made of records.
        own_process: whether this process is the run's alone, as with the command line: signals then end the run, which
            returns with `interrupted` set, and a second one leaves the process.

    Raises:
        KeyboardInterrupt: at Ctrl-C, when workers have ended and records are kept; not with `own_process`.
        UserError: for everything the user can mend: data, devices, conditions, a folder that cannot be written.
    """
    progress = progress or Silent()
    results = ResultsFolder(out if out is not None else Path("results") / grid.name)
    refuse_newer(results)
    results.refuse_foreign()
    mirror = make_mirror(results, grid.name) if make_mirror else None
    runner = _executor(executor, timeout_seconds, plugins) if isinstance(executor, str) else executor
    try:
        data = _prepare_data(grid, data_dir, plugins, progress)
        asked = Asked.of(
            grid, data.component, data.spec.train_examples, only=only, shard=shard, devices_there=runner.devices()
        )
        results.create()
        setup = Setup(
            data_directory=str(data.directory),
            data=Data(
                sha256=data.sha256,
                fallback=data.fallback,
                train_examples=data.spec.train_examples,
                test_examples=data.spec.test_examples,
            ),
            plugins=plugins.names if plugins else (),
            timeout_seconds=timeout_seconds,
        )
        with results.lock():
            interruption = Interruption(own_process=own_process, writes_report=write_report is not None)
            run = _Run(
                results,
                asked,
                runner,
                mirror,
                progress,
                interruption=interruption,
                force=force,
                write_report=write_report,
            )
            with interruption.watched(runner.stop):
                run.cells(setup, rerun_noisy=rerun_noisy, fail_fast=fail_fast, budget_seconds=budget_seconds)
                interruption.records_kept = True
                summary = run.finish()
        if summary.interrupted is not None and not own_process:
            raise KeyboardInterrupt(f"{plural(summary.left, 'cell')} left; the same call goes on")
        return summary
    finally:
        runner.close()
        progress.end()


class _Run:
    """What `run_grid` does while it holds the folder."""

    def __init__(
        self,
        results: ResultsFolder,
        asked: Asked,
        executor: Executor,
        mirror: RecordMirror | None,
        progress: Progress,
        *,
        interruption: Interruption,
        force: bool,
        write_report: WriteReport | None,
    ) -> None:
        self._interruption = interruption
        self._results = results
        self._asked = asked
        self._executor = executor
        self._mirror = mirror
        self._progress = progress
        self._force = force
        self._write_report = write_report
        self._index, self._set_aside = read_index(results)
        self._before = results.cell_ids()
        self._targets_before = results.targets()
        self._cells: list[Cell] = []
        self._chosen: list[Cell] = []
        self._kept = self._ran = 0
        self._stopped: set[str] = set()
        self._failed_again: set[str] = set()
        self._warnings: list[str] = []

    def cells(self, setup: Setup, *, rerun_noisy: bool, fail_fast: bool, budget_seconds: float | None) -> None:
        """Run what is missing: the trials if the grid tunes, the cells, then rounds in which noise was seen."""
        results = self._results
        others = [item for item in self._set_aside if not item.is_named_as_record]
        self._set_aside = [item for item in self._set_aside if item.is_named_as_record]
        results.clean()
        results.set_aside(item.file for item in self._set_aside)
        for item in self._set_aside:
            self._warn(f"set aside: {item.file.name}: {item.reason}")
        for item in others:
            self._warn(f"{item.file} is no record, and is left as it is: {item.reason}")
        self._warn_of_other_machines()
        for cell_id, known in self._index.items():
            if known.older_data not in (None, setup.data.sha256):
                self._index[cell_id] = replace(known, outdated="a CSV file that this release reads otherwise")
        results.write_grid(self._asked.grid.to_yaml())
        session = Session(
            results,
            self._executor,
            setup,
            index=self._index,
            attempts=attempts_made(results),
            progress=self._progress,
            interruption=self._interruption,
            after_record=self._mirror.write if self._mirror else _nothing,
            tuning=self._asked.tuning,
            fail_fast=fail_fast,
            budget_seconds=budget_seconds,
        )
        trials = self._asked.trials()
        if trials:
            self._stage(session, trials, trials, first_round=0)
        measured = self._asked.cells(self._records_of(trials))
        chosen = self._asked.choose(measured)
        first_round = len({cell.seed for cell in trials})
        self._stage(session, measured, chosen, first_round=first_round)
        if rerun_noisy and not session.ends:
            self._rerun_noisy(session, in_rounds(measured, first=first_round), chosen)
        self._ran, self._stopped, self._failed_again = session.ran, session.stopped, session.failed_again

    def finish(self) -> RunSummary:
        """Write what is made of records, mirror what is left, and count."""
        results, progress = self._results, self._progress
        progress.end()
        ids = {cell.cell_id for cell in self._cells}
        dropped = sorted((self._before or set()) - ids | {cell_id for cell_id in self._index if cell_id not in ids})
        added = [cell.cell_id for cell in self._cells if self._before is not None and cell.cell_id not in self._before]
        retargeted = self._before is not None and results.targets() != self._targets_before
        changed = bool(self._ran or added or dropped or self._set_aside or retargeted)
        if changed or self._index.read:
            save_index(results, self._index.values())
        if self._write_report is not None and (changed or not results.report_file.exists()):
            try:
                self._write_report(results)
            except Exception as error:  # the records are written; a page can be made again
                self._warn(
                    f"the report could not be written ({type(error).__name__}: {error}); `report` makes it again"
                )
        for text in weaknesses:
            self._warn(text)
        sync = self._sync(changed)
        if sync is not None and sync.note is not None:
            self._warn(sync.note)
        if sync is not None and not sync.failed and sync.reason:
            self._warn(f"{sync.reason}; `sync {results.path}` does it again")
        everything = (self._index[cell_id].status if cell_id in self._index else "pending" for cell_id in ids)
        return RunSummary(
            results=results,
            counts=dict(Counter(everything)),
            ran=self._ran,
            kept=self._kept,
            added=added,
            dropped=dropped,
            set_aside=self._set_aside,
            failed=sum(self._has_failed(cell) for cell in self._chosen),
            left=sum(not self._has_result(cell) and not self._is_skipped(cell) for cell in self._chosen),
            not_mirrored=sync.failed if sync else 0,
            not_mirrored_reason=sync.reason if sync else None,
            tracking=self._mirror.address if self._mirror else None,
            experiment=self._mirror.experiment if self._mirror else None,
            interrupted=self._interruption.signum,
            warnings=self._warnings,
        )

    def _stage(self, session: Session, cells: list[Cell], chosen: list[Cell], *, first_round: int) -> None:
        """Make cells part of the grid, and run those that are chosen and have no result."""
        self._cells += cells
        self._chosen += chosen
        self._results.write_cells(self._cells)
        absent = [cell for cell in chosen if cell.device in self._asked.absent]
        session.skip(absent)
        here = [cell for cell in chosen if cell.device not in self._asked.absent]
        pending = {cell.cell_id for cell in here if self._force or not self._has_result(cell)}
        self._warn_of_other_tuning(cell for cell in here if cell.cell_id not in pending)
        self._kept += len(here) - len(pending)
        self._say_outdated(cell for cell in here if cell.cell_id in pending)
        if not pending or session.ends:
            return
        self._begin(len(pending), [cell for cell in here if cell.cell_id in pending])
        rounds = [round_.only(lambda cell: cell.cell_id in pending) for round_ in in_rounds(cells, first=first_round)]
        session.run(rounds)

    def _rerun_noisy(self, session: Session, rounds: Sequence[Round], chosen: Iterable[Cell]) -> None:
        """Replace the whole round of a device in which noise was seen, once, whichever way it moves (rule 12)."""
        replaced = {record.cell_id for record in self._results.attempts() if is_noisy(record)}
        noisy = replaced | {item.cell_id for item in self._index.values() if item.noisy and not item.noisy_rerun}
        again = {cell.cell_id for cell in chosen if self._has_result(cell)}
        again -= {item.cell_id for item in self._index.values() if item.noisy_rerun}
        chosen_rounds = []
        for round_ in rounds:
            disturbed = {cell.device for _, cell in round_.cells if cell.cell_id in noisy}
            chosen_rounds.append(round_.only(partial(_is_again, again, disturbed)))
        cells = [cell for round_ in chosen_rounds for _, cell in round_.cells]
        if cells:
            self._progress.say(f"noise was seen: {plural(len(cells), 'cell')} to run once more, in whole rounds")
            self._begin(len(cells), cells)
            session.run(chosen_rounds, noisy_rerun=True)

    def _begin(self, count: int, cells: Iterable[Cell]) -> None:
        self._executor.prepare(cells)
        if self._mirror is not None:
            self._mirror.open()  # its import and a new database's migrations fall before the first cell, not between
        self._progress.begin(count, self._kept)

    def _has_result(self, cell: Cell) -> bool:
        found = self._index.get(cell.cell_id)
        return found is not None and found.is_result

    def _is_skipped(self, cell: Cell) -> bool:
        return cell.cell_id in self._index and self._index[cell.cell_id].status == "skipped"

    def _has_failed(self, cell: Cell) -> bool:
        """Whether it has no result, and its last attempt failed; an outdated result is none, and stays where it is."""
        found = self._index.get(cell.cell_id)
        if found is None or cell.cell_id in self._stopped:
            return False
        return found.status in FAILURES or (found.outdated is not None and cell.cell_id in self._failed_again)

    def _records_of(self, trials: Sequence[Cell]) -> list[CellRecord]:
        found = (self._results.record(cell.cell_id) for cell in trials)
        return [record for record in found if record is not None]

    def _sync(self, changed: bool) -> MirrorResult | None:
        """Mirror what is left; no server is asked if the journal says that all is there."""
        if self._mirror is None:
            return None
        if not changed:
            ids = {item.record_id for item in self._index.values() if item.status != "skipped"}
            if self._mirror.has_all(ids | self._results.attempt_ids()):
                return None
        return self._mirror.finish()

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._progress.say(text)

    def _say_outdated(self, pending: Iterable[Cell]) -> None:
        found = (self._index.get(cell.cell_id) for cell in pending)
        reasons = Counter(item.outdated for item in found if item is not None and item.outdated)
        if reasons:
            told = ", ".join(f"{count} with {reason}" for reason, count in reasons.items())
            self._warn(
                f"outdated, and run again: {plural(sum(reasons.values()), 'record')}. An older release could train"
                f" them wrongly ({told})"
            )

    def _warn_of_other_tuning(self, kept: Iterable[Cell]) -> None:
        others = sum(self._index[cell.cell_id].tuning != self._asked.tuning(cell) for cell in kept)
        if others:
            self._warn(f"kept, made before `tune:` changed, and marked so: {plural(others, 'record')}; --force reruns")

    def _warn_of_other_machines(self) -> None:
        from mnistbench.results.this_machine import machine_id, recognized

        machines = (item.machine_id for item in self._index.values())
        others = sum(machine is not None and recognized(machine) != machine_id() for machine in machines)
        if others:
            self._warn(f"of another machine, kept, and grouped apart: {plural(others, 'record')}")
        builds = {item.torch for item in self._index.values()} - {None, _torch_version()}
        if builds:
            self._warn(f"records here are of torch {', '.join(sorted(map(str, builds)))}: kept, and grouped apart")


def _is_again(again: set[str], disturbed: set[str], cell: Cell) -> bool:
    return cell.cell_id in again and cell.device in disturbed


def _nothing(_: CellRecord) -> None:
    """In place of a mirror."""


def _executor(name: str, timeout_seconds: float | None, plugins: Plugins | None) -> Executor:
    if name == "process":
        return ProcessExecutor()
    if name == "inline":
        if timeout_seconds is not None:
            raise UserError("--timeout needs a process to end: leave --executor inline out")
        return InlineExecutor()
    if name == "ray":
        from mnistbench.run.ray import RayExecutor

        return RayExecutor(plugins=plugins.names if plugins else ())
    raise UserError(f"unknown executor {name}: there are process, inline and ray")


def _prepare_data(
    grid: Grid | ResolvedGrid, data_dir: Path | None, plugins: Plugins | None, progress: Progress
) -> PreparedData:
    from mnistbench.data import datasets
    from mnistbench.grid.resolved import ResolvedGrid

    source = Path(getattr(grid, "source", ""))
    prepared = datasets.prepare(
        grid.dataset,
        data_dir=data_dir,
        fallback=grid.fallback,
        progress=progress.download,
        base=source.parent if source.suffix else None,
        plugins=plugins,
    )
    if not isinstance(grid, ResolvedGrid):  # which was checked where it was resolved
        grid.check_data(prepared.component.name, prepared.spec.classes)
    if prepared.fallback:
        progress.say(
            f"NOT THE DATASET YOU ASKED FOR: {prepared.component.label} stands in for {grid.dataset.label}, which is"
            f" not here and could not be downloaded (`python -m mnistbench data fetch {grid.dataset.name}` says why)"
        )
    for warning in prepared.warnings:
        progress.say(warning)
    return prepared


def _torch_version() -> str | None:
    try:
        return metadata.version("torch").partition("+")[0]
    except metadata.PackageNotFoundError:
        return None
