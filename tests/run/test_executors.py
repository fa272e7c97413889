"""Cells that crash, hang, talk, use up memory or fork: each leaves one record, and the next cell runs."""

from __future__ import annotations

import select
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mnistbench.cell import Cell, Component, Training
from mnistbench.data import datasets
from mnistbench.results.records import CellRecord, Data, EpochMeasurement
from mnistbench.run import processes as running
from mnistbench.run.executors import Executor, InlineExecutor, ProcessExecutor
from mnistbench.run.processes import ForkServer
from mnistbench.train.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """One that imports torch once for all tests of this file."""
    shared = ForkServer()
    yield shared
    shared.close()


@pytest.fixture
def processes(server: ForkServer) -> Iterator[type[ProcessExecutor]]:
    class Shared(ProcessExecutor):
        def __init__(self, train: str, *, slots: int | None = None) -> None:
            super().__init__(train=f"stand_ins:{train}", grace_seconds=0.3, slots=slots)
            self._server = server

    yield Shared


def job(cell: Cell, *, timeout_seconds: float | None = None, seed: int = 0, execution: str = "fast") -> Job:
    cell = replace(cell, seed=seed, training=Training(epochs=2), execution=replace(cell.execution, name=execution))
    return Job(
        cell=cell,
        record_id=str(uuid.uuid4()),
        data_directory="-",
        data=Data(sha256="d"),
        timeout_seconds=timeout_seconds,
    )


def run(executor: Executor, *jobs: Job) -> list[CellRecord]:
    return list(executor.run(jobs, lambda job, epoch: None))


def only(executor: Executor, job: Job) -> CellRecord:
    (record,) = run(executor, job)
    assert record.record_id == job.record_id
    return record


@pytest.mark.parametrize(
    ("train", "status", "error", "message"),
    [
        ("chatty", "failed", "ValueError", "after much talk in …/place/model.py"),
        ("killed", "killed", "SIGKILL", "its process was killed by SIGKILL"),
        ("segfault", "failed", "SIGSEGV", "its process crashed with SIGSEGV"),
        ("leaves", "failed", "SystemExit", "exit with status 7"),
        ("leaves_at_once", "failed", "exit", "its process ended with status 0 before it was done"),
        ("out_of_memory", "out_of_memory", "MemoryError", "no message"),
        ("out_of_torch_memory", "out_of_memory", "RuntimeError", "can't allocate memory"),
        ("out_of_device_memory", "out_of_memory", "OutOfMemoryError", "CUDA out of memory"),
    ],
)
def test_a_worker_that_dies_leaves_a_record_that_says_how(
    processes: type[ProcessExecutor], cell: Cell, train: str, status: str, error: str, message: str
) -> None:
    executor = processes(train)
    records = run(executor, job(cell), job(cell, seed=1))
    assert [record.status for record in records] == [status, status]
    for record in records:
        assert record.error is not None
        assert record.error.type == error
        assert message in record.error.message
        assert record.environment is not None
        assert len(record.error.log) <= running.TAIL_BYTES
        assert record.error.log.splitlines()[-1].startswith("line 19999" if train == "chatty" else "last words")
        assert len(record.epochs) == (0 if train == "chatty" else 1)


@pytest.mark.parametrize("train", ["sleep", "stubborn", "stopped"])
def test_a_hang_ends_at_its_time_whatever_it_ignores(processes: type[ProcessExecutor], cell: Cell, train: str) -> None:
    """A sleep, one that ignores TERM and has a child, one that is stopped; the next cell runs."""
    record = only(processes(train), job(cell, timeout_seconds=0.7))
    assert record.status == "timed_out"
    assert record.error is not None
    assert record.error.message == "it took longer than 0.7 s"
    assert len(record.epochs) == 1
    assert record.error.log.endswith("last words\n")
    if train != "stopped":
        assert f"in {train}" in record.error.stack
        assert str(Path.home()) not in record.error.stack
    assert only(processes("quick"), job(cell)).status == "finished"


def test_the_children_of_a_worker_end_with_it(processes: type[ProcessExecutor], cell: Cell) -> None:
    record = only(processes("stubborn"), job(cell, timeout_seconds=0.7))
    assert record.error is not None
    said, *pids = record.error.log.splitlines()[0].split()
    assert said == "pids"
    wait_until_gone([int(pid) for pid in pids])


def alive(pid: int) -> bool:
    """Running, that is, and no corpse that nobody has collected yet."""
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_cell_in_time_is_not_disturbed_by_its_limit(processes: type[ProcessExecutor], cell: Cell) -> None:
    assert only(processes("quick"), job(cell, timeout_seconds=60)).status == "finished"


def test_a_kill_for_memory_is_a_result(
    processes: type[ProcessExecutor], cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's counter of such kills goes up between start and end."""
    counts = iter([4, 5])
    monkeypatch.setattr(running, "kills_for_memory", lambda: next(counts))
    record = only(processes("killed"), job(cell))
    assert record.status == "out_of_memory"


def test_a_server_that_is_dying_takes_no_order() -> None:
    """On a busy machine it is a while from the end of its files to its own; two orders lost by it failed a cell."""
    server = ForkServer(("slow_to_die",))
    try:
        server.start()
        dying = server.pid
        assert server._control is not None
        assert select.select([server._control], [], [], 30)[0], "it has closed its end"
        server.start()
        assert server.pid != dying
    finally:
        server.close()


def test_the_kernels_counter_of_kills_can_be_read() -> None:
    assert running.kills_for_memory() >= 0


def test_the_child_of_a_worker_cannot_speak_for_it(processes: type[ProcessExecutor], cell: Cell) -> None:
    """A plug-in forks, and both come back into our code."""
    heard: list[int] = []
    records = list(processes("forks").run([job(cell)], lambda job, epoch: heard.append(epoch.epoch)))
    assert [record.status for record in records] == ["finished"]
    assert heard == [1, 2]


def test_epochs_of_no_length_are_told_together(
    processes: type[ProcessExecutor], cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message wakes the parent, which is noise to the next epoch."""
    answers: list[None] = []
    go_on = running.WorkerProcess.go_on
    monkeypatch.setattr(running.WorkerProcess, "go_on", lambda self: (answers.append(None), go_on(self)))
    heard: list[int] = []
    many = job(cell)
    many = replace(many, cell=replace(many.cell, training=Training(epochs=1000)))
    (record,) = processes("quick").run([many], lambda job, epoch: heard.append(epoch.epoch))
    assert heard == [epoch.epoch for epoch in record.epochs] == list(range(1, 1001))
    assert len(answers) < 500


def test_a_worker_waits_between_epochs_until_its_parent_has_answered(
    processes: type[ProcessExecutor], cell: Cell
) -> None:
    """While a cell is timed its parent sleeps; so what the parent does must lie between the epochs."""
    ended: list[float] = []

    def slow(job: Job, epoch: EpochMeasurement) -> None:
        time.sleep(0.3)
        ended.append(time.time())

    (record,) = processes("quick").run([job(cell)], slow)
    from datetime import datetime

    assert datetime.fromisoformat(record.epochs[1].ended_at).timestamp() >= ended[0] - 0.001


def test_closing_the_iterator_ends_what_runs(processes: type[ProcessExecutor], cell: Cell) -> None:
    pids: list[int] = []
    executor = processes("sleep")

    def interrupt(job: Job, epoch: EpochMeasurement) -> None:
        pids.extend(worker.pid or 0 for worker in executor._running)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(executor.run([job(cell)], interrupt))
    wait_until_gone(pids)


def wait_until_gone(pids: list[int]) -> None:
    assert pids
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.02)


def test_stop_ends_the_present_cell_as_killed_and_starts_no_other(processes: type[ProcessExecutor], cell: Cell) -> None:
    executor = processes("sleep")
    records = list(executor.run([job(cell), job(cell, seed=1)], lambda job, epoch: executor.stop("stopped by Ctrl-C")))
    assert [record.status for record in records] == ["killed"]
    assert records[0].error is not None and records[0].error.message == "stopped by Ctrl-C"
    assert len(records[0].epochs) == 1


def test_shared_cells_run_as_many_at_once_as_there_are_slots(
    processes: type[ProcessExecutor], cell: Cell, tmp_path: Path
) -> None:
    """Each waits until all three are there."""
    shared = replace(
        cell, execution=Component(name="fast", options={"isolation": "shared"}), optimizer=meeting(tmp_path, 3)
    )
    jobs = [job(shared, seed=seed) for seed in range(3)]
    assert [record.status for record in run(processes("waits", slots=3), *jobs)] == ["finished"] * 3


def test_a_cell_that_asks_to_be_alone_is_alone(processes: type[ProcessExecutor], cell: Cell) -> None:
    executor = processes("quick", slots=3)
    counts: list[int] = []
    jobs = [job(cell, seed=seed) for seed in range(3)]
    list(executor.run(jobs, lambda job, epoch: counts.append(len(executor._running))))
    assert set(counts) == {1}


def meeting(folder: Path, wait_for: int) -> Component:
    return Component(name="sgd", options={"meeting": str(folder), "wait_for": wait_for})


@pytest.mark.parametrize(("execution", "kept"), [("fast", True), ("plain", False)])
def test_large_blocks_are_kept_where_the_cell_asks_for_it(
    processes: type[ProcessExecutor], cell: Cell, execution: str, kept: bool
) -> None:
    """One server forks workers of both kinds: what is freed and taken again is faulted in anew, or is not."""
    record = only(processes("blocks"), job(cell, execution=execution))
    assert (record.execution_resolved["faults"] < 100) is kept, record.execution_resolved


def test_a_worker_leads_a_session_of_its_own(processes: type[ProcessExecutor], cell: Cell) -> None:
    record = only(processes("environment"), job(cell))
    assert record.execution_resolved["session"] == record.execution_resolved["pid"]


def test_a_server_that_was_killed_is_started_again(cell: Cell) -> None:
    executor = ProcessExecutor(train="stand_ins:quick")
    try:
        assert only(executor, job(cell)).status == "finished"
        assert executor._server._process is not None
        executor._server._process.kill()
        executor._server._process.wait()
        assert only(executor, job(cell)).status == "finished"
    finally:
        executor.close()


def test_a_server_that_dies_under_a_cell_costs_that_cell_only(cell: Cell) -> None:
    executor = ProcessExecutor(train="stand_ins:sleep")
    pids: list[int] = []

    def kill_server(job: Job, epoch: EpochMeasurement) -> None:
        pids.extend(worker.pid or 0 for worker in executor._running)
        assert executor._server._process is not None
        executor._server._process.kill()

    try:
        (record,) = executor.run([job(cell)], kill_server)
        assert record.status == "killed"
        wait_until_gone(pids)
    finally:
        executor.close()


def test_what_cannot_be_imported_is_a_failed_cell(processes: type[ProcessExecutor], cell: Cell) -> None:
    record = only(processes("nowhere"), job(cell))
    assert record.status == "failed"
    assert record.error is not None and "nowhere" in record.error.message


def test_what_cannot_be_imported_is_a_failed_cell_of_the_inline_executor_too(cell: Cell) -> None:
    for train in ("stand_ins:nowhere", "not_there:train"):
        record = only(InlineExecutor(train=train), job(cell))
        assert record.status == "failed"
        assert record.error is not None and train.split(":")[record.error.type == "AttributeError"] in (
            record.error.message
        )


def test_the_inline_executor_runs_the_same_and_survives_failures(cell: Cell) -> None:
    jobs = [job(cell, seed=seed) for seed in (0, 1)]
    records = run(InlineExecutor(train="stand_ins:by_seed"), *jobs)
    assert [record.status for record in records] == ["finished", "failed"]


def test_a_stopped_inline_executor_ends_the_present_cell_as_killed(cell: Cell) -> None:
    executor = InlineExecutor(train="stand_ins:quick")
    records = list(executor.run([job(cell), job(cell, seed=1)], lambda job, epoch: executor.stop("stopped by SIGTERM")))
    assert [record.status for record in records] == ["killed"]
    assert len(records[0].epochs) == 1


def test_a_worker_finds_torch_and_all_it_needs_of_it_loaded(
    processes: type[ProcessExecutor], cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One import too late is a second in every cell."""
    prepared = datasets.prepare(Component(name="sum3", options={"rows": 100}))
    cell = replace(cell, dataset=prepared.component, batch_size=10)
    asked = replace(job(cell), data_directory=str(prepared.directory), data=Data(sha256=prepared.sha256))
    record = only(processes("imports"), asked)
    assert record.status == "finished", record.error
    assert [name for name in record.execution_resolved["imported"] if not name.startswith("mnistbench.")] == []


@pytest.mark.parametrize("network", ["mlp", "lenet5"])
def test_a_worker_imports_nothing_of_ours_for_its_training(
    processes: type[ProcessExecutor], cell: Cell, digit_images: Component, network: str
) -> None:
    """What is not there before the fork, each cell pays for anew: ten modules made its fixed cost a quarter higher.

    The second of two cells: the gate and the choice of kernels are a machine's, once.
    """
    prepared = datasets.prepare(digit_images)
    cell = replace(cell, dataset=prepared.component, architecture=Component(name=network), training=Training(epochs=1))
    jobs = [
        Job(
            cell=replace(cell, seed=seed),
            record_id=str(seed),
            data_directory=str(prepared.directory),
            data=Data(sha256=prepared.sha256),
        )
        for seed in range(2)
    ]
    records = run(processes("importing"), *jobs)
    assert [record.status for record in records] == ["finished", "finished"]
    assert records[1].checks == {"imported": ""}
