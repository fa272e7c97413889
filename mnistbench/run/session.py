"""One session of a runner: pending cells go to the executor round by round, and each record that comes back is kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mnistbench.cell import Cell
from mnistbench.data.datasets import PreparedData
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.index import attempts_made, known, read_index
from mnistbench.results.records import FAILURES, CellRecord, Data, Error, utc_now
from mnistbench.run.budget import rounds_that_fit, seconds_by_setting
from mnistbench.run.executors import LOST, Executor
from mnistbench.run.interruption import Interruption
from mnistbench.run.options import RunOptions
from mnistbench.run.plan import Round, rounds_of
from mnistbench.run.selection import Selection
from mnistbench.run.watchers import Watchers
from mnistbench.train.clocks import ProbeHistory
from mnistbench.train.job import Job
from mnistbench.words.wording import plural, rough_time

LOSSES = 3
"""Attempts at one cell that may be lost with their machines in one session: the cell itself may crash its machine."""


@dataclass(kw_only=True)
class Session:
    """What a run knows while it holds the results folder, and what it has done; nobody else writes there meanwhile.

    Attributes:
        options, selection, executor, watchers, interruption: as the run was asked.
        results: the folder, created and locked.
        prepared, data, data_directory: what every cell is trained on, and what records and jobs say of it.
        index: what is known of each cell.
        attempts: the highest attempt number of each cell in `attempts/`.
        cells_before, targets_before: what the folder was asked by the run before; None if there was none.
        cells, chosen: of the grid and of this run, as far as they are named.
        set_aside, foreign: files among the records that are none: named as records are, and named otherwise.
        ran, kept: attempts made, and cells that had their result before.
        stopped: cells that an interruption ended: nothing is wrong with them.
        failed_again: cells with a result whose new attempt failed, so that the result still counts.
        has_failed: a cell failed, and `fail_fast` is asked.
        out_of_time: the budget is used up at `deadline`.
        blocks, speed_line: blocks of speed that were taken, and what is said of them.
    """

    options: RunOptions
    selection: Selection
    executor: Executor
    watchers: Watchers
    interruption: Interruption
    results: ResultsFolder
    prepared: PreparedData
    cells: list[Cell] = field(default_factory=list)
    chosen: list[Cell] = field(default_factory=list)
    ran: int = 0
    kept: int = 0
    stopped: set[str] = field(default_factory=set)
    failed_again: set[str] = field(default_factory=set)
    has_failed: bool = False
    out_of_time: bool = False
    blocks: int = 0
    speed_line: str | None = None
    warnings: list[str] = field(default_factory=list)
    probes: ProbeHistory = field(default_factory=ProbeHistory)

    def __post_init__(self) -> None:
        """See what is in the folder."""
        spec, budget = self.prepared.spec, self.options.budget_seconds
        self.data = Data(
            sha256=self.prepared.sha256,
            fallback=self.prepared.fallback,
            train_examples=spec.train_examples,
            test_examples=spec.test_examples,
        )
        self.data_directory = str(self.prepared.directory)
        self.index, others = read_index(self.results)
        self.attempts = attempts_made(self.results)
        self.cells_before, self.targets_before = self.results.cell_ids(), self.results.targets()
        self.deadline = None if budget is None else time.monotonic() + budget
        self.set_aside = [other for other in others if other.is_named_as_record]
        self.foreign = [other for other in others if not other.is_named_as_record]

    @property
    def ends(self) -> bool:
        """Whether no more cells shall start."""
        return self.interruption.signum is not None or self.has_failed or self.out_of_time

    def warn(self, text: str) -> None:
        """Say it now, and again at the end."""
        self.warnings.append(text)
        self.watchers.say(text)


def run_rounds(session: Session, rounds: Sequence[Round], *, noisy_rerun: bool = False) -> None:
    """Run the rounds' cells in order, until they are done or the session ends.

    Args:
        session: what is there; kept up to date.
        rounds: each with at least one cell.
        noisy_rerun: the cells take the place of results in whose round noise was seen.

    Raises:
        UserError: if a record cannot be written; what was written before is whole.
    """
    if not rounds or session.ends:
        return
    _say_what_fits(session, rounds)
    for losses_left in reversed(range(LOSSES)):
        lost: set[str] = set()
        for record in session.executor.run(_jobs(session, rounds), session.watchers.epoch):
            if losses_left and record.error is not None and record.error.type == LOST:
                lost.add(record.cell_id)
            marked = record.with_changes(noisy_rerun=True) if noisy_rerun else record
            _keep(session, marked, runs_again=record.cell_id in lost)
        rounds = rounds_of(rounds, lost)
        if not rounds or session.ends:
            return


def record_skipped(session: Session, cells: Sequence[Cell]) -> None:
    """Record cells whose device is not on this machine, unless something is known of them already."""
    for cell in cells:
        if cell.cell_id not in session.index:
            error = Error(type="device", message=f"{cell.device} is not on this machine")
            record = _with_tuning(session, _job(session, cell, 0, 0).record("skipped", utc_now(), error=error))
            session.results.write(record)
            session.index[cell.cell_id] = known(record)


def _jobs(session: Session, rounds: Sequence[Round]) -> Iterator[Job]:
    """Jobs as the executor takes them: the clock, Ctrl-C and failures are looked at before each."""
    for number, round_ in enumerate(rounds):
        if session.deadline is not None and time.monotonic() >= session.deadline:
            session.out_of_time = True
            session.watchers.say(f"the time is up: {len(rounds) - number} of {plural(len(rounds), 'round')} left")
        for position, cell in round_.cells:
            if session.ends:
                return
            job = _job(session, cell, round_.number, position)
            session.watchers.started(job)
            yield job
        if number == 0 and session.deadline is not None and len(rounds) > 1:
            _say_what_fits(session, rounds[1:], session.deadline - time.monotonic())


def _job(session: Session, cell: Cell, round_number: int, position: int) -> Job:
    record_id = str(uuid.uuid4())
    earlier = session.index.get(cell.cell_id)
    attempts = max(session.attempts.get(cell.cell_id, 0), earlier.attempt if earlier else 0)
    weights = str(session.results.weights_directory(record_id)) if cell.training.save_model else None
    plugins = session.options.plugins
    return Job(
        cell=cell,
        record_id=record_id,
        attempt=attempts + 1 if earlier is None or earlier.status != "skipped" else attempts,
        round=round_number,
        position=position,
        data_directory=session.data_directory,
        data=session.data,
        weights_directory=weights,
        plugins=plugins.needed_by(cell) if plugins else (),
        timeout_seconds=session.options.timeout_seconds,
    )


def _keep(session: Session, record: CellRecord, *, runs_again: bool) -> None:
    """Store an attempt; `runs_again` if it was lost through no fault of its cell, which will have another."""
    record = session.results.keep_weights(_with_tuning(session, _flagged(session, record)))
    if file := session.results.write(record):
        session.index[record.cell_id] = known(record, file.name)
    else:
        session.failed_again.add(record.cell_id)
    session.ran += 1
    interrupted = session.interruption.signum is not None
    if record.status == "killed" and interrupted:
        session.stopped.add(record.cell_id)
    if runs_again and record.error is not None:
        session.watchers.say(f"{record.cell.label}: {record.error.message}; it will run again")
    elif session.options.fail_fast and record.status in FAILURES:
        session.has_failed = True
    session.watchers.record(record, runs_again=runs_again, interrupted=interrupted)


def _flagged(session: Session, record: CellRecord) -> CellRecord:
    """Flag a cell whose probes are off those of the session's other cells."""
    noise, levers = record.noise, record.execution_resolved
    group = "/".join(str(part) for part in (record.cell.device, levers.get("precision"), levers.get("threads")))
    if noise is None or not session.probes.is_off(group, noise.probe):
        return record
    return record.with_changes(noise=replace(noise, flags=[*noise.flags, "probe"]))


def _with_tuning(session: Session, record: CellRecord) -> CellRecord:
    tuning = session.selection.tuning(record.cell)
    return record if tuning is None else record.with_changes(checks={**record.checks, "tuning": tuning})


def _say_what_fits(session: Session, rounds: Sequence[Round], seconds: float | None = None) -> None:
    if session.options.budget_seconds is None:
        return
    budget = session.options.budget_seconds if seconds is None else max(0.0, seconds)
    cells = [[cell for _, cell in round_.cells] for round_ in rounds]
    fit = rounds_that_fit(cells, seconds_by_setting(session.index.values()), budget)
    if fit is None:
        session.watchers.say(f"budget {rough_time(budget)}: nothing is known yet; the first round will tell")
    else:
        left = f"{fit} of {plural(len(rounds), 'round')}{'' if seconds is None else ' left'}"
        session.watchers.say(f"budget {rough_time(budget)}: about {left} will be run")
