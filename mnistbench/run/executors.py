"""How cells run: in a process each (`ProcessExecutor`, the default), or in this very process (`InlineExecutor`)."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import override

from mnistbench.axes.execution import levers_of
from mnistbench.axes.plugins import same_folder
from mnistbench.cell import Cell
from mnistbench.results.records import CellRecord, EpochMeasurement, Error, utc_now
from mnistbench.run.processes import PRELOAD, ForkServer, WorkerProcess, kill_group
from mnistbench.run.worker import TRAIN_CELL, train_named, train_safely
from mnistbench.train.clocks import usable_threads
from mnistbench.train.job import Job
from mnistbench.train.machine import physical_cores
from mnistbench.train.steps.cuda_graph import CaptureFailed

if TYPE_CHECKING:
    from mnistbench.train.block import BlockMeasurement, SettledSetting

OnEpoch = Callable[[Job, EpochMeasurement], None]
TIME_BLOCK = "mnistbench.train.block:time_block"
SETTLE_SETTING = "mnistbench.train.block:settle_setting"
LOST = "lost"
"""Error type of an attempt that ended with the machine or the process that watched it: no fault of the cell."""


class Executor(Protocol):
    """Runs jobs, and yields a record for each in the order in which they end.

    An attempt that fails, hangs or is killed yields a record too. Closing the iterator ends what runs.
    """

    def devices(self) -> list[str] | None:
        """Names of the devices that cells can run on; None for those of this machine."""
        return None

    def prepare(self, cells: Iterable[Cell]) -> None:
        """Begin to load what these cells need, and return at once."""
        return

    def run(self, jobs: Iterable[Job], on_epoch: OnEpoch) -> Iterator[CellRecord]:
        """Take jobs one by one, as soon as there is room for the next."""
        ...

    def stop(self, reason: str) -> None:
        """End the present attempts as `killed` and start no more; may be called from a signal handler."""
        ...

    def close(self) -> None:
        """Let go of processes that wait for more."""
        return


class InlineExecutor(Executor):
    """Trains in this process: for debugging, and where no process can be started. It cannot end a hang."""

    def __init__(self, *, train: str = TRAIN_CELL) -> None:
        self._train = train
        self._reason: str | None = None
        self._training = False

    @override
    def run(self, jobs: Iterable[Job], on_epoch: OnEpoch) -> Iterator[CellRecord]:
        for job in jobs:
            if self._reason is not None:
                return
            yield self._run(job, on_epoch)

    @override
    def stop(self, reason: str) -> None:
        """Training stands in the way, so it is interrupted where it is."""
        self._reason = reason
        if self._training:
            raise KeyboardInterrupt

    def _run(self, job: Job, on_epoch: OnEpoch) -> CellRecord:
        started, started_at = time.perf_counter(), utc_now()
        epochs: list[EpochMeasurement] = []

        def remember(measurement: EpochMeasurement) -> None:
            epochs.append(measurement)
            on_epoch(job, measurement)

        try:
            self._training = True
            with same_folder():
                record: CellRecord = train_safely(
                    replace(job, own_process=False), partial(train_named, self._train, None), remember, started
                )
                return record
        except KeyboardInterrupt:
            if self._reason is None:
                raise
            error = Error(type="killed", message=self._reason)
            return job.record("killed", started_at, epochs=epochs, error=error)
        finally:
            self._training = False


class ProcessExecutor(Executor):
    """Runs each cell in a process of its own, forked by a server that has torch loaded.

    A cell whose CUDA graph cannot be captured runs again at once, in a fresh process and without one.
    Cells that run alone follow each other. Cells with `isolation: shared` run as many at once as there are cores.

    Args:
        train: `module:function` that trains a cell.
        grace_seconds: between TERM and KILL for a cell that is over its time.
        slots: shared cells at once; the number of usable cores if left out.
        preload: modules that the server imports before it forks.
    """

    def __init__(
        self,
        *,
        train: str = TRAIN_CELL,
        grace_seconds: float = 2.0,
        slots: int | None = None,
        preload: tuple[str, ...] = PRELOAD,
    ) -> None:
        self._train = train
        self._grace_seconds = grace_seconds
        self._slots = slots or usable_threads(physical_cores())
        self._server = ForkServer(preload)
        self._running: list[WorkerProcess] = []
        self._reason: str | None = None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    @override
    def prepare(self, cells: Iterable[Cell]) -> None:
        """The server imports torch while the caller does something else."""
        self._server.start()

    @override
    def run(self, jobs: Iterable[Job], on_epoch: OnEpoch) -> Iterator[CellRecord]:
        return self._results(jobs, self._train, {}, on_epoch)

    @property
    def times_blocks(self) -> bool:
        """Whether the speed of what it trains can be told by blocks, which are of the package's own training."""
        return self._train == TRAIN_CELL

    def time_block(self, job: Job, steps: int) -> BlockMeasurement | CellRecord:
        """Time one block of the job's cell in a fresh process; a record says how it failed, or was stopped."""
        result: BlockMeasurement | CellRecord = self._result(job, TIME_BLOCK, {"steps": steps})
        return result

    def settle_setting(self, job: Job) -> SettledSetting | CellRecord:
        """Choose the kernels of the job's cell and ask the gate, in a fresh process; a record says how that failed."""
        result: SettledSetting | CellRecord = self._result(job, SETTLE_SETTING, {})
        return result

    def _result(self, job: Job, function: str, arguments: Mapping[str, Any]) -> Any:
        for result in self._results([job], function, arguments, lambda job, epoch: None):
            return result
        return job.record("killed", utc_now(), error=Error(type="killed", message=self._reason or ""))

    def _results(
        self, jobs: Iterable[Job], function: str, arguments: Mapping[str, Any], on_epoch: OnEpoch
    ) -> Iterator[Any]:
        waiting = iter(jobs)
        again: list[Job] = []
        tried_again: set[str] = set()
        upcoming: Job | None = None
        try:
            while True:
                while self._reason is None and self._has_room():
                    upcoming = upcoming or (again.pop() if again else next(waiting, None))
                    if upcoming is None or (self._running and not is_shared(upcoming.cell)):
                        break
                    worker = WorkerProcess(upcoming, self._server, function, arguments, self._grace_seconds)
                    self._running.append(worker)
                    upcoming = None
                if not self._running:
                    return
                self._wait(on_epoch)
                for worker in [worker for worker in self._running if worker.ended]:
                    self._running.remove(worker)
                    result, job = worker.finish(), worker.job
                    if worker.never_started and job.record_id not in tried_again:
                        tried_again.add(job.record_id)  # perhaps its server was killed while nothing ran
                        again.append(job)
                    elif self._reason is None and (eager := without_graph(job, result)) is not None:
                        again.append(eager)
                    else:
                        yield result
        finally:
            self._end_all()

    @override
    def stop(self, reason: str) -> None:
        self._reason = reason
        os.write(self._wake, b"!")

    @override
    def close(self) -> None:
        self._server.close()

    def _has_room(self) -> bool:
        shared = all(is_shared(worker.job.cell) for worker in self._running)
        return not self._running or (shared and len(self._running) < self._slots)

    def _wait(self, on_epoch: OnEpoch) -> None:
        """Sleep until a worker has something to say, ends, or is over its time; then take that in."""
        if self._reason is not None:
            for worker in self._running:
                worker.stop(self._reason)
        owners = {descriptor: worker for worker in self._running for descriptor in worker.descriptors()}
        seconds = min(0.0 if worker.ended else worker.seconds_to_act() for worker in self._running)
        ready = wait([*owners, self._woken], None if math.isinf(seconds) else max(0.0, seconds))
        if self._woken in ready:
            os.read(self._woken, 64)
        talking = {id(owners[descriptor]) for descriptor in owners.keys() & set(ready)}
        for worker in self._running:
            epochs = worker.read() if id(worker) in talking else []
            for measurement in epochs:
                on_epoch(worker.job, measurement)
            if epochs:
                worker.go_on()
            worker.act()

    def _end_all(self) -> None:
        """What still runs when nobody takes records any more."""
        for worker in self._running:
            if worker.pid is not None:
                kill_group(worker.pid, signal.SIGKILL)
        for worker in self._running:
            worker.finish()
        self._running.clear()


def without_graph(job: Job, result: object) -> Job | None:
    """The job once more, without a CUDA graph, if that is what its worker failed at; None otherwise."""
    if not isinstance(result, CellRecord) or result.status != "failed" or result.error is None or job.without_graph:
        return None
    return replace(job, without_graph=result.error.message) if result.error.type == CaptureFailed.__name__ else None


def is_shared(cell: Cell) -> bool:
    """Whether other cells may run beside it."""
    return levers_of(cell.execution).isolation == "shared"
