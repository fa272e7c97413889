"""One session of a runner: pending cells go to the executor round by round, and each record that comes back is kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mnistbench.cell import Cell
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.index import Known, known
from mnistbench.results.records import FAILURES, CellRecord, Data, Error, utc_now
from mnistbench.run.budget import rounds_that_fit, seconds_by_setting
from mnistbench.run.executors import LOST, Executor, is_shared
from mnistbench.run.interruption import Interruption
from mnistbench.run.progress import Progress
from mnistbench.train.clocks import ProbeHistory
from mnistbench.train.job import Job
from mnistbench.words.wording import plural, rough_time

LOSSES = 3
"""Attempts at one cell that may be lost with their machines in one session: perhaps it is the cell that fells them."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """Cells that run one after the other before any cell of the next round (rule 2), each with its position."""

    number: int
    cells: Sequence[tuple[int, Cell]]

    def only(self, wanted: Callable[[Cell], bool]) -> Round:
        """The cells among them that are wanted; the others' positions stay free."""
        return Round(number=self.number, cells=[(position, cell) for position, cell in self.cells if wanted(cell)])


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every job of a session has in common; see `Job`."""

    data_directory: str
    data: Data
    plugins: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    environment_extra: Mapping[str, Any] = field(default_factory=dict)


class Session:
    """Runs rounds and stores what comes of them; nobody else writes to the folder meanwhile.

    Args:
        results: the folder, created and locked.
        index: what is known of each cell; kept up to date.
        attempts: the highest attempt number of each cell in `attempts/`.
        after_record: called between cells with each record that was stored, to mirror it.
        tuning: what to note of how a cell's learning rate came about, see `Asked.tuning`.
    """

    def __init__(
        self,
        results: ResultsFolder,
        executor: Executor,
        setup: Setup,
        *,
        index: dict[str, Known],
        attempts: Mapping[str, int],
        progress: Progress,
        interruption: Interruption,
        after_record: Callable[[CellRecord], object],
        tuning: Callable[[Cell], str | None],
        fail_fast: bool = False,
        budget_seconds: float | None = None,
    ) -> None:
        self.index = index
        self.ran = 0
        self.stopped: set[str] = set()
        """Cells that an interruption ended: nothing is wrong with them."""
        self.failed_again: set[str] = set()
        """Cells with a result whose new attempt failed, so that the result still counts."""
        self.out_of_time = False
        self._results = results
        self._executor = executor
        self._setup = setup
        self._attempts = attempts
        self._progress = progress
        self._interruption = interruption
        self._after_record = after_record
        self._tuning = tuning
        self._fail_fast = fail_fast
        self._failed = False
        self._probes = ProbeHistory()
        self._budget_seconds = budget_seconds
        self._deadline = None if budget_seconds is None else time.monotonic() + budget_seconds

    @property
    def ends(self) -> bool:
        """Whether no more cells shall start."""
        return self._interruption.signum is not None or self._failed or self.out_of_time

    def run(self, rounds: Sequence[Round], *, noisy_rerun: bool = False) -> None:
        """Run the rounds' cells in order, until they are done or the session ends.

        Raises:
            UserError: if a record cannot be written; what was written before is whole.
        """
        rounds = [round_ for round_ in rounds if round_.cells]
        if not rounds or self.ends:
            return
        self._say_what_fits(rounds)
        for left in reversed(range(LOSSES)):
            lost: set[str] = set()
            for record in self._executor.run(self._jobs(rounds), self._progress.epoch):
                if left and record.error is not None and record.error.type == LOST:
                    lost.add(record.cell_id)
                self._keep(
                    record.with_changes(noisy_rerun=True) if noisy_rerun else record, again=record.cell_id in lost
                )
            rounds = [again for round_ in rounds if (again := round_.only(_of(lost))).cells]
            if not rounds or self.ends:
                return

    def skip(self, cells: Sequence[Cell]) -> None:
        """Record cells whose device is not on this machine, unless something is known of them already."""
        for cell in cells:
            if cell.cell_id not in self.index:
                job = self._job(cell, 0, 0)
                error = Error(type="device", message=f"{cell.device} is not on this machine")
                record = self._with_tuning(job.record("skipped", utc_now(), error=error))
                self._results.write(record)
                self.index[cell.cell_id] = known(record)

    def _jobs(self, rounds: Sequence[Round]) -> Iterator[Job]:
        """Jobs as the executor takes them: the clock, Ctrl-C and failures are looked at before each."""
        for number, round_ in enumerate(rounds):
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self.out_of_time = True
                self._progress.say(f"the time is up: {len(rounds) - number} of {plural(len(rounds), 'round')} left")
            for position, cell in round_.cells:
                if self.ends:
                    return
                job = self._job(cell, round_.number, position)
                self._progress.started(job)
                yield job
            if number == 0 and self._deadline is not None and len(rounds) > 1:
                self._say_what_fits(rounds[1:], self._deadline - time.monotonic())

    def _job(self, cell: Cell, round_number: int, position: int) -> Job:
        record_id = str(uuid.uuid4())
        earlier = self.index.get(cell.cell_id)
        attempts = max(self._attempts.get(cell.cell_id, 0), earlier.attempt if earlier else 0)
        weights = str(self._results.weights_directory(record_id)) if cell.training.save_model else None
        return Job(
            cell=cell,
            record_id=record_id,
            attempt=attempts + 1 if earlier is None or earlier.status != "skipped" else attempts,
            round=round_number,
            position=position,
            data_directory=self._setup.data_directory,
            data=self._setup.data,
            weights_directory=weights,
            plugins=self._setup.plugins,
            timeout_seconds=self._setup.timeout_seconds,
            environment_extra=self._setup.environment_extra,
        )

    def _keep(self, record: CellRecord, *, again: bool = False) -> None:
        """Store an attempt; `again` if it was lost through no fault of its cell, which will have another."""
        record = self._results.keep_weights(self._with_tuning(self._flagged(record)))
        if file := self._results.write(record):
            self.index[record.cell_id] = known(record, file.name)
        else:
            self.failed_again.add(record.cell_id)
        self.ran += 1
        if record.status == "killed" and self._interruption.signum is not None:
            self.stopped.add(record.cell_id)
        if again and record.error is not None:
            self._progress.say(f"{record.cell.label}: {record.error.message}; it will run again")
        else:
            self._failed = self._failed or (self._fail_fast and record.status in FAILURES)
            self._progress.finished(record)
        if self._interruption.signum is None:
            self._after_record(record)

    def _flagged(self, record: CellRecord) -> CellRecord:
        """Flag a cell whose probes are off those of the session's other cells."""
        noise, levers = record.noise, record.execution_resolved
        group = "/".join(str(part) for part in (record.cell.device, levers.get("precision"), levers.get("threads")))
        if noise is None or not self._probes.is_off(group, noise.probe):
            return record
        return record.with_changes(noise=replace(noise, flags=[*noise.flags, "probe"]))

    def _with_tuning(self, record: CellRecord) -> CellRecord:
        said = self._tuning(record.cell)
        return record if said is None else record.with_changes(checks={**record.checks, "tuning": said})

    def _say_what_fits(self, rounds: Sequence[Round], seconds: float | None = None) -> None:
        if self._budget_seconds is None:
            return
        budget = self._budget_seconds if seconds is None else max(0.0, seconds)
        cells = [[cell for _, cell in round_.cells] for round_ in rounds]
        fit = rounds_that_fit(cells, seconds_by_setting(self.index.values()), budget)
        if fit is None:
            self._progress.say(f"budget {rough_time(budget)}: nothing is known yet; the first round will tell")
        else:
            left = f"{fit} of {plural(len(rounds), 'round')}{'' if seconds is None else ' left'}"
            self._progress.say(f"budget {rough_time(budget)}: about {left} will be run")


def _of(cell_ids: set[str]) -> Callable[[Cell], bool]:
    return lambda cell: cell.cell_id in cell_ids


def in_rounds(cells: Sequence[Cell], seed: int = 0, first: int = 0) -> list[Round]:
    """The rounds of a grid: the r-th seed in round r, shuffled; within a round, cells that run alone go first."""
    from mnistbench.grid.grid import rounds

    return [
        Round(number=number, cells=list(enumerate(sorted(group, key=is_shared))))
        for number, group in enumerate(rounds(cells, seed), start=first)
    ]
