"""How cells run: in a process each (`ProcessExecutor`, the default), or in this very process (`InlineExecutor`)."""

from __future__ import annotations

import math
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from mnistbench.axes.execution import KEPT_ALLOCATOR, levers_of
from mnistbench.axes.plugins import same_folder
from mnistbench.cell import Cell
from mnistbench.errors.redaction import redact
from mnistbench.results.records import CellRecord, EpochMeasurement, Error, utc_now
from mnistbench.run.child import Running
from mnistbench.run.forkserver import PRELOAD, ForkServer, ServerLost, kill_group
from mnistbench.run.worker import TRAIN_CELL, find_function, train_safely
from mnistbench.train.job import Job
from mnistbench.train.steps.cuda_graph import CaptureFailed

OnEpoch = Callable[[Job, EpochMeasurement], None]
LOST = "lost"
"""Error type of an attempt that ended with the machine or the process that watched it: no fault of the cell."""


class Executor(Protocol):
    """Runs jobs, and yields a record for each in the order in which they end.

    An attempt that fails, hangs or is killed yields a record too. Closing the iterator ends what runs.
    """

    def devices(self) -> list[str] | None:
        """Names of the devices that cells can run on; None for those of this machine."""
        ...

    def prepare(self, cells: Iterable[Cell]) -> None:
        """Begin to load what these cells need, and return at once."""
        ...

    def run(self, jobs: Iterable[Job], on_epoch: OnEpoch) -> Iterator[CellRecord]:
        """Take jobs one by one, as soon as there is room for the next."""
        ...

    def stop(self, reason: str) -> None:
        """End the present attempts as `killed` and start no more; may be called from a signal handler."""
        ...

    def close(self) -> None:
        """Let go of processes that wait for more."""
        ...


class InlineExecutor:
    """Trains in this process: for debugging, and where no process can be started. It cannot end a hang."""

    def __init__(self, *, train: str = TRAIN_CELL) -> None:
        self._train = train
        self._reason: str | None = None
        self._training = False

    def devices(self) -> list[str] | None:
        """See `Executor`."""
        return None

    def prepare(self, cells: Iterable[Cell]) -> None:
        """See `Executor`."""

    def run(self, jobs: Iterable[Job], on_epoch: OnEpoch) -> Iterator[CellRecord]:
        """See `Executor`."""
        for job in jobs:
            if self._reason is not None:
                return
            yield self._run(job, on_epoch)

    def stop(self, reason: str) -> None:
        """See `Executor`; training stands in the way, so it is interrupted where it is."""
        self._reason = reason
        if self._training:
            raise KeyboardInterrupt

    def close(self) -> None:
        """See `Executor`."""

    def _run(self, job: Job, on_epoch: OnEpoch) -> CellRecord:
        started, started_at = time.perf_counter(), utc_now()
        epochs: list[EpochMeasurement] = []

        def remember(measurement: EpochMeasurement) -> None:
            epochs.append(measurement)
            on_epoch(job, measurement)

        try:
            self._training = True
            with same_folder():
                return train_safely(replace(job, own_process=False), find_function(self._train), remember, started)
        except KeyboardInterrupt:
            if self._reason is None:
                raise
            error = Error(type="killed", message=self._reason)
            return job.record("killed", started_at, epochs=epochs, error=error)
        finally:
            self._training = False


class ProcessExecutor:
    """Runs each cell in a process of its own, forked by a server that has torch loaded.

    A cell whose CUDA graph cannot be captured runs again at once, in a fresh process and without one.
    Cells that run alone follow each other. Cells with `isolation: shared` run as many at once as there are cores.

    Args:
        train: `module:function` that trains a cell.
        grace_seconds: between TERM and KILL for a cell that is over its time.
        slots: shared cells at once; the number of usable cores if left out.
        preload: modules that servers import before they fork.
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
        self._slots = slots or usable_cores()
        self._preload = preload
        self._servers: dict[tuple[tuple[str, str], ...], ForkServer] = {}
        self._running: list[Running] = []
        self._reason: str | None = None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def devices(self) -> list[str] | None:
        """See `Executor`."""
        return None

    def prepare(self, cells: Iterable[Cell]) -> None:
        """See `Executor`; servers import torch while the caller does something else."""
        for cell in cells:
            self._server_for(cell).start()

    def run(self, jobs: Iterable[Job], on_epoch: OnEpoch) -> Iterator[CellRecord]:
        """See `Executor`."""
        waiting = iter(jobs)
        upcoming: Job | None = None
        again: list[Job] = []
        try:
            while True:
                while self._reason is None and self._has_room():
                    upcoming = upcoming or (again.pop() if again else next(waiting, None))
                    if upcoming is None or not self._fits(upcoming):
                        break
                    not_started = self._start(upcoming)
                    upcoming = None
                    if not_started is not None:
                        yield not_started
                if not self._running:
                    return
                self._wait(on_epoch)
                for worker in [worker for worker in self._running if worker.ended]:
                    self._running.remove(worker)
                    record = worker.finish()
                    eager = None if self._reason is not None else without_graph(worker.job, record)
                    if eager is None:
                        yield record
                    else:
                        again.append(eager)
        finally:
            self._end_all()

    def stop(self, reason: str) -> None:
        """See `Executor`."""
        self._reason = reason
        os.write(self._wake, b"!")

    def close(self) -> None:
        """See `Executor`."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def _has_room(self) -> bool:
        shared = all(is_shared(worker.job.cell) for worker in self._running)
        return not self._running or (shared and len(self._running) < self._slots)

    def _fits(self, job: Job) -> bool:
        return not self._running or is_shared(job.cell)

    def _start(self, job: Job) -> CellRecord | None:
        """Start a worker for the job; a record only if that could not be done."""
        server = self._server_for(job.cell)
        for last in (False, True):
            try:
                self._running.append(Running.start(job, server, self._train, sys.path, self._grace_seconds))
                break
            except ServerLost as lost:  # perhaps it was killed while nothing ran: a fresh one is worth one try
                if last:
                    error = Error(
                        type="ServerLost", message="no process could be started for it", log=redact(str(lost))
                    )
                    return job.record("failed", utc_now(), error=error)
        return None

    def _server_for(self, cell: Cell) -> ForkServer:
        environment = process_environment(cell)
        key = tuple(sorted(environment.items()))
        if key not in self._servers:
            self._servers[key] = ForkServer(environment, self._preload)
        return self._servers[key]

    def _wait(self, on_epoch: OnEpoch) -> None:
        """Sleep until a worker has something to say, ends, or is over its time; then take that in."""
        if self._reason is not None:
            for worker in self._running:
                worker.stop(self._reason)
        servers = {id(worker.server): worker.server for worker in self._running}.values()
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for server in servers:
                if server.running:
                    selector.register(server.fileno(), selectors.EVENT_READ, server)
            for worker in self._running:
                for descriptor in worker.descriptors():
                    selector.register(descriptor, selectors.EVENT_READ, worker)
            seconds = min(worker.seconds_to_act() for worker in self._running)
            if any(server.has_news for server in servers):
                seconds = 0.0
            ready = {key.data for key, _ in selector.select(None if math.isinf(seconds) else max(0.0, seconds))}
        if None in ready:
            os.read(self._woken, 64)
        for worker in self._running:
            epochs = worker.read() if worker in ready else []
            for measurement in epochs:
                on_epoch(worker.job, measurement)
            if epochs:
                worker.go_on()
            worker.act()
        for server in servers:
            self._take_news(server)

    def _take_news(self, server: ForkServer) -> None:
        mine = {worker.pid: worker for worker in self._running if worker.server is server}
        try:
            for pid, code in server.news():
                if pid in mine:
                    mine[pid].exited(code)
        except ServerLost:
            for worker in mine.values():
                kill_group(worker.pid, signal.SIGKILL)
                worker.exited(None)

    def _end_all(self) -> None:
        """What still runs when nobody takes records any more."""
        for worker in self._running:
            kill_group(worker.pid, signal.SIGKILL)
        for worker in self._running:
            worker.finish()
        self._running.clear()


def without_graph(job: Job, record: CellRecord) -> Job | None:
    """The job once more, without a CUDA graph, if that is what its worker failed at; None otherwise."""
    error = record.error
    if record.status != "failed" or error is None or error.type != CaptureFailed.__name__ or job.without_graph:
        return None
    return replace(job, without_graph=error.message)


def is_shared(cell: Cell) -> bool:
    """Whether other cells may run beside it."""
    return levers_of(cell.execution).isolation == "shared"


def process_environment(cell: Cell) -> dict[str, str]:
    """Variables that must be there when the cell's process starts: how the allocator behaves."""
    return KEPT_ALLOCATOR if levers_of(cell.execution).allocator == "keep" else {}


def usable_cores() -> int:
    """Cores that this process may use (rule 13)."""
    from mnistbench.train.clocks import usable_threads
    from mnistbench.train.machine import physical_cores

    return usable_threads(physical_cores())
