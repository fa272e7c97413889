"""Sends cells to the nodes of a Ray cluster, each as large as its `isolation` asks, and takes their records in."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from mnistbench.cell import Cell
from mnistbench.data import arrays
from mnistbench.errors import UserError
from mnistbench.errors.redaction import redact
from mnistbench.results.records import CellRecord, EpochMeasurement, Error, utc_now
from mnistbench.run.executors import LOST, Executor, OnEpoch
from mnistbench.run.processes import PRELOAD
from mnistbench.run.ray import luggage, node
from mnistbench.run.ray.cluster import Needs, Node, choose, devices_of
from mnistbench.run.ray.connection import connect
from mnistbench.run.worker import TRAIN_CELL
from mnistbench.train.job import Job
from mnistbench.train.machine import git_state

LOOK_AHEAD = 16
"""Jobs taken before there is room for them, so that a GPU does not wait behind cells for the CPU."""
LOOK_SECONDS = 1.0
"""Between two looks at which nodes are there."""
WAKE_SECONDS = 0.5
"""Longest sleep of the driver, after which it sees Ctrl-C."""
GIVE_UP_SECONDS = 10.0
"""For nodes to confirm that a cancelled cell is gone."""
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Attempt:
    """A cell that runs on a node, or waits there until Ray has what it asks for."""

    job: Job
    node: Node
    needs: Needs
    reference: Any
    started_at: str = field(default_factory=utc_now)
    epochs: list[EpochMeasurement] = field(default_factory=list)


class RayExecutor(Executor):
    """Runs each cell on a node of a Ray cluster, in a process of its own there. Records are written by the driver only.

    A CPU cell that runs alone asks for all CPUs of a node, a shared one for one, a cuda cell for a GPU.

    Args:
        address: `auto`, `host:port` or `ray://host:port`; a Ray on this machine, for the time of the run, if left out.
        plugins: as the command line named them; their sources travel to the nodes.
        train: `module:function` that trains a cell.
        preload: modules that the nodes load before the first cell.
        patience_seconds: how long to wait for a node when there is none left.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        plugins: Sequence[str] = (),
        train: str = TRAIN_CELL,
        preload: tuple[str, ...] = PRELOAD,
        patience_seconds: float = 60.0,
    ) -> None:
        self._address = address
        self._plugins = tuple(plugins)
        self._train = train
        self._preload = preload
        self._patience_seconds = patience_seconds
        self._ray: Any = None
        self._nodes: dict[str, Node] = {}
        self._joining: dict[Any, Node] = {}
        self._left_out: dict[str, str] = {}
        self._attempts: dict[Any, Attempt] = {}
        self._waiting: list[Job] = []
        self._kinds = {"cpu"}
        self._data: tuple[str, str] | None = None
        self._sent: list[Any] = []
        self._next_look = 0.0
        self._last_seen = 0.0
        self._reason: str | None = None

    @override
    def devices(self) -> list[str]:
        """What the nodes of the cluster have.

        Raises:
            UserError: if there is no cluster at the address, or Ray is not installed.
        """
        self._connect()
        return devices_of(Node.of(node) for node in self._ray.nodes() if node["Alive"])

    @override
    def prepare(self, cells: Iterable[Cell]) -> None:
        self._connect()
        self._kinds |= {_kind(cell) for cell in cells}

    @override
    def run(self, jobs: Iterable[Job], on_epoch: OnEpoch) -> Iterator[CellRecord]:
        """The record of an attempt whose node was lost says so with `LOST`.

        Raises:
            UserError: if no node is left that could run what is to be run.
        """
        self._connect()
        coming = iter(jobs)
        self._last_seen = time.monotonic()
        try:
            while self._reason is None:
                self._start_what_fits(coming)
                if not self._attempts and not self._waiting:
                    return
                self._look_at_nodes()
                for attempt in self._wait(on_epoch):
                    yield self._record(attempt)
            yield from self._stopped(self._reason)
        finally:
            self._waiting.clear()
            self._cancel_all()

    @override
    def stop(self, reason: str) -> None:
        self._reason = reason

    @override
    def close(self) -> None:
        """A local Ray ends with it."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None
            self._nodes.clear()
            self._joining.clear()

    def _connect(self) -> None:
        if self._ray is not None:
            return
        with tempfile.TemporaryDirectory(prefix="mnistbench-ray-") as folder:
            packed = luggage.pack(self._plugins, Path(folder))
            self._plugin_names = dict(zip(self._plugins, packed, strict=True))
            self._ray = ray = connect(self._address, Path(folder))
        self._run_cell = ray.remote(max_retries=0)(node.run_cell)
        self._find_data = ray.remote(num_cpus=0, max_retries=0)(node.find_data)
        at_head = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
        self._mailbox = ray.remote(**at_head)(node.Mailbox).remote()
        self._mail = self._mailbox.take.remote()

    def _start_what_fits(self, coming: Iterator[Job]) -> None:
        """Start jobs in their order; a kind of device that has no room lets the other kind's jobs pass."""
        blocked: set[str] = set()
        for job in list(self._waiting):
            if _kind(job.cell) in blocked or not self._start(job):
                blocked.add(_kind(job.cell))
            else:
                self._waiting.remove(job)
        while self._reason is None and self._kinds - blocked and len(self._waiting) < LOOK_AHEAD:
            try:
                job = next(coming)
            except StopIteration:
                return
            if self._data is None:
                self._data = (job.data_directory, job.data.sha256)
                self._look_at_nodes()
            if _kind(job.cell) in blocked or not self._start(job):
                blocked.add(_kind(job.cell))
                self._waiting.append(job)

    def _start(self, job: Job) -> bool:
        choice = choose((one for one in self._nodes.values() if one.data_directory is not None), job.cell)
        if choice is None:
            return False
        chosen, needs = choice
        assert chosen.data_directory is not None
        commit, dirty = git_state()  # the sources travel without their repository
        travelling = replace(
            job,
            data_directory=chosen.data_directory,
            plugins=tuple(self._plugin_names.get(name, name) for name in job.plugins),
            environment_extra={"git_commit": commit, "git_dirty": dirty, **job.environment_extra},
        )
        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "scheduling_strategy": self._on(chosen)}
        reference = self._run_cell.options(**options).remote(travelling, self._train, self._preload, self._mailbox)
        self._attempts[reference] = Attempt(job, chosen, needs, reference)
        chosen.taken.append(needs)
        return True

    def _on(self, chosen: Node) -> Any:
        strategies = self._ray.util.scheduling_strategies
        return strategies.NodeAffinitySchedulingStrategy(chosen.node_id, soft=False)

    def _look_at_nodes(self) -> None:
        """Ask new nodes for the data; forget those that are gone. Their cells' references tell of it themselves."""
        now = time.monotonic()
        if now < self._next_look or self._data is None:
            return
        self._next_look = now + LOOK_SECONDS
        alive = {each["NodeID"]: each for each in self._ray.nodes() if each["Alive"]}
        for node_id in set(self._nodes) - set(alive):
            del self._nodes[node_id]
        for node_id in set(alive) - set(self._nodes) - set(self._left_out):
            self._nodes[node_id] = Node.of(alive[node_id])
            self._ask_for_data(self._nodes[node_id], [])
        if self._attempts or self._joining or self._could_run():
            self._last_seen = now
        elif now - self._last_seen > self._patience_seconds:
            reasons = "; ".join(dict.fromkeys(self._left_out.values()))
            raise UserError(
                "no node of the cluster can run the cells that are left" + (f": {reasons}" if reasons else "")
            )

    def _could_run(self) -> bool:
        ready = [one for one in self._nodes.values() if one.data_directory is not None]
        return any(one.needs(job.cell) is not None for one in ready for job in self._waiting)

    def _ask_for_data(self, asked: Node, sent: list[Any]) -> None:
        assert self._data is not None
        reference = self._find_data.options(scheduling_strategy=self._on(asked)).remote(*self._data, sent)
        self._joining[reference] = asked

    def _joined(self, reference: Any) -> None:
        """A node has answered where the data lies on it."""
        answered = self._joining.pop(reference)
        try:
            answered.data_directory = self._ray.get(reference)
        except Exception as error:  # of Ray or of the node's disk; other nodes go on
            if answered.node_id in self._nodes:
                del self._nodes[answered.node_id]
                self._left_out[answered.node_id] = f"{answered.name}: {_said(error)}"
                _log.warning("node %s is left out: %s", answered.name, _said(error))
            return
        if answered.data_directory is None:
            self._ask_for_data(answered, self._arrays())

    def _arrays(self) -> list[Any]:
        """The prepared data in Ray's store, from where each node takes it once."""
        if not self._sent:
            assert self._data is not None
            mapped = arrays.load(Path(self._data[0]))
            unmapped: dict[str, Any] = {name: np.array(array) for name, array in mapped.items()}
            self._sent = [self._ray.put(replace(mapped, **unmapped))]
        return self._sent

    def _wait(self, on_epoch: OnEpoch) -> list[Attempt]:
        """Sleep until something has happened; return attempts that have ended."""
        references = [*self._attempts, *self._joining, self._mail]
        self._ray.wait(references, timeout=WAKE_SECONDS)
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        if self._mail in ready:
            self._take_mail(on_epoch)
        for reference in ready:
            if reference in self._joining:
                self._joined(reference)
        return [self._attempts.pop(reference) for reference in ready if reference in self._attempts]

    def _take_mail(self, on_epoch: OnEpoch) -> None:
        attempts = {attempt.job.record_id: attempt for attempt in self._attempts.values()}
        for record_id, measurement in self._ray.get(self._mail):
            if record_id in attempts:
                attempts[record_id].epochs.append(measurement)
                on_epoch(attempts[record_id].job, measurement)
        self._mail = self._mailbox.take.remote()

    def _record(self, attempt: Attempt) -> CellRecord:
        """What has become of an attempt that has ended."""
        attempt.node.taken.remove(attempt.needs)
        job, failures = attempt.job, self._ray.exceptions
        try:
            delivery = self._ray.get(attempt.reference)
        except failures.OutOfMemoryError as error:
            said = Error(type="OutOfMemoryError", message="Ray ended it because its node's memory was used up")
            return self._unfinished(attempt, replace(said, log=redact(str(error))[-4000:]), "out_of_memory")
        except failures.RayTaskError as error:
            return self._unfinished(attempt, Error(type="RayTaskError", message=_said(error)), "failed")
        except failures.RayError as error:
            # Ray may not know yet that the node is dead: it gets no more cells until it has answered again.
            self._nodes.pop(attempt.node.node_id, None)
            message = f"the process that ran it on {attempt.node.name} was lost ({type(error).__name__})"
            return self._unfinished(attempt, Error(type=LOST, message=message, log=redact(str(error))[-4000:]))
        for name, content in delivery.weights.items():
            assert job.weights_directory is not None
            (Path(job.weights_directory) / Path(name).name).write_bytes(content)
        record: CellRecord = delivery.record
        return record

    def _unfinished(self, attempt: Attempt, error: Error, status: Any = "killed") -> CellRecord:
        return attempt.job.record(status, attempt.started_at, epochs=attempt.epochs, error=error)

    def _stopped(self, reason: str) -> Iterator[CellRecord]:
        """End what runs, and say of each attempt that it was ended, unless it was just done."""
        ready, _ = self._ray.wait([*self._attempts, self._mail], num_returns=len(self._attempts) + 1, timeout=0)
        done = [self._attempts.pop(reference) for reference in ready if reference in self._attempts]
        stopped = list(self._attempts.values())
        self._cancel_all()
        for attempt in done:
            yield self._record(attempt)
        for attempt in stopped:
            yield self._unfinished(attempt, Error(type="killed", message=reason))

    def _cancel_all(self) -> None:
        """End every cell on every node: its process ends with the one that watches it."""
        references = list(self._attempts)
        for attempt in self._attempts.values():
            attempt.node.taken.remove(attempt.needs)
        self._attempts.clear()
        with contextlib.suppress(Exception):  # a cluster that is gone has nothing to end
            for reference in references:
                self._ray.cancel(reference, force=True)
            if references:
                self._ray.wait(references, num_returns=len(references), timeout=GIVE_UP_SECONDS)


def _kind(cell: Cell) -> str:
    return cell.device.partition(":")[0]


def _said(error: Exception) -> str:
    """The line of a remote error that tells something: what was raised there."""
    lines = [line.strip() for line in str(getattr(error, "cause", None) or error).splitlines() if line.strip()]
    return redact(lines[-1] if lines else type(error).__name__)[:500]
