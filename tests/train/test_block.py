"""One block of a setting: how long it is, what it trains on, what disturbed it, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cgroups import cgroup

from mnistbench.cell import Cell, Component
from mnistbench.data import datasets
from mnistbench.results.records import CellRecord, Data
from mnistbench.run.executors import ProcessExecutor
from mnistbench.train import block as blocks
from mnistbench.train import clocks
from mnistbench.train.block import BlockMeasurement, find_cause, settle_setting, time_block
from mnistbench.train.job import Job

ROWS = 1000


@pytest.fixture
def job(cell: Cell) -> Job:
    """Sums of three digits, in some thirty whole steps an epoch and a smaller one."""
    prepared = datasets.prepare(Component(name="sum3", options={"rows": ROWS}))
    step = Component(name="fast", options={"step": "autograd"})  # leaves no kernel to choose
    cell = replace(cell, dataset=prepared.component, batch_size=24, execution=step)
    return Job(cell=cell, record_id="r", data_directory=str(prepared.directory), data=Data(sha256=prepared.sha256))


def examples_of(job: Job) -> int:
    return datasets.prepare(job.cell.dataset).spec.train_examples


def test_a_block_is_whole_steps_from_the_beginning_of_an_epoch(job: Job) -> None:
    measured = time_block(job, 7)
    assert (measured.steps, measured.examples, measured.pid) == (7, 7 * 24, os.getpid())
    assert 0 < measured.seconds < 60


def test_a_block_longer_than_an_epoch_goes_on_with_the_next_one(job: Job) -> None:
    """The last batch of an epoch is as small as it is in training."""
    examples = examples_of(job)
    epoch = math.ceil(examples / 24)
    assert examples % 24, "the last batch is to be a partial one"
    measured = time_block(job, epoch + 2)
    assert (measured.steps, measured.examples) == (epoch + 2, examples + 2 * 24)


def test_one_batch_of_all_examples_is_taken_twice(job: Job) -> None:
    examples = examples_of(job)
    job = replace(job, cell=replace(job.cell, batch_size=examples))
    settled = settle_setting(job)
    assert settled.steps >= 2
    measured = time_block(job, 2)
    assert (measured.steps, measured.examples) == (2, 2 * examples)


def test_the_batches_are_those_of_a_training_and_drawn_on_the_clock(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    times = iter(range(10_000))

    def clock() -> float:
        seen.append("clock")
        return float(next(times))

    drawn = blocks.make_trainee

    def make(job: Job, device: Any) -> Any:
        trainee = drawn(job, device)
        batches = trainee.batches
        epoch = batches.epoch

        def watched(number: int) -> Iterator[Any]:
            seen.append(f"epoch {number}")
            return epoch(number)

        monkeypatch.setattr(batches, "epoch", watched)
        return trainee

    monkeypatch.setattr(blocks, "make_trainee", make)
    monkeypatch.setattr(blocks.time, "perf_counter", clock)
    time_block(job, 3)
    assert seen[-3:] == ["clock", "epoch 1", "clock"]


def test_a_setting_that_is_settled_knows_how_many_steps_take_a_tenth_of_a_second(job: Job) -> None:
    steps = settle_setting(job).steps
    assert steps >= 2
    assert time_block(job, steps).steps == steps


def test_a_block_changes_nothing_on_disk(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its setting is settled; not in the cache either, which an earlier answer is read from."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    settled = settle_setting(job)
    assert settled.equivalence == "passed"
    (tmp_path / "cache" / "kept").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for each in (job, replace(job, resolved=settled.resolved)):
        time_block(each, 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_loss_that_is_not_finite_has_a_rate_too(job: Job) -> None:
    cell = replace(job.cell, optimizer=Component(name="sgd", options={"lr": 1e30}))
    measured = time_block(replace(job, cell=cell), 60)
    assert 2 <= measured.steps <= 60
    assert measured.seconds > 0


CLEAN: dict[str, Any] = {"seconds": 0.2, "threads": 2, "waited": 0.004, "throttled": 0.0, "gpu_slowdown": False}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, None),
        ({"waited": 0.0081}, "waited"),
        ({"waited": 0.0079}, None),
        ({"seconds": 0.1, "waited": 0.0049}, None),
        ({"seconds": 0.1, "waited": 0.0051}, "waited"),
        ({"throttled": 1e-6}, "throttled"),
        ({"throttled": None, "gpu_slowdown": None}, None),
        ({"gpu_slowdown": True}, "gpu_slowdown"),
        ({"waited": None}, "unknown"),
        ({"waited": None, "throttled": 0.1}, "throttled"),
    ],
)
def test_what_counts_as_a_cause(changes: dict[str, Any], cause: str | None) -> None:
    assert find_cause(**{**CLEAN, **changes}) == cause


def test_where_nobody_tells_of_waiting_the_cause_is_unknown(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "waited_seconds", lambda: None)
    measured = time_block(job, 2)
    assert measured.waited_seconds is None
    if not measured.throttled_seconds:
        assert measured.cause == "unknown"


def test_a_thread_that_began_in_between_is_counted_from_its_beginning() -> None:
    assert clocks.waited_since({"1": 1.0, "2": 5.0}, {"1": 1.5, "3": 0.25}) == 0.75
    assert clocks.waited_since(None, {"1": 1.0}) is None


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessExecutor]:
    shared = ProcessExecutor()
    yield shared
    shared.close()


@pytest.mark.slow
@pytest.mark.alone
def test_blocks_of_processes_of_their_own_have_finite_rates(executor: ProcessExecutor, job: Job) -> None:
    settled = executor.settle_setting(job)
    assert isinstance(settled, blocks.SettledSetting)
    job = replace(job, resolved=settled.resolved)
    first = executor.time_block(job, settled.steps)
    assert isinstance(first, BlockMeasurement)
    measured = [executor.time_block(job, first.steps) for _ in range(3)]
    assert all(isinstance(each, BlockMeasurement) and each.steps == first.steps for each in measured)
    assert all(math.isfinite(each.examples / each.seconds) for each in measured if isinstance(each, BlockMeasurement))
    pids = {each.pid for each in measured if isinstance(each, BlockMeasurement)}
    assert len(pids - {os.getpid(), first.pid}) == 3


@pytest.mark.slow
@pytest.mark.alone
def test_a_block_that_fails_says_how(executor: ProcessExecutor, job: Job) -> None:
    failing = replace(job, data_directory="/nowhere")
    result = executor.time_block(failing, 2)
    assert isinstance(result, CellRecord)
    assert result.status == "failed" and result.error is not None
    executor.stop("stopped by Ctrl-C")
    stopped = executor.time_block(job, 2)
    executor._reason = None
    assert isinstance(stopped, CellRecord)
    assert stopped.error is not None and stopped.error.message == "stopped by Ctrl-C"


BUSY = "while True: pass"


@pytest.mark.slow
@pytest.mark.alone
def test_a_neighbour_on_every_core_is_seen_as_waiting(executor: ProcessExecutor, job: Job) -> None:
    if clocks.waited_seconds() is None:
        pytest.skip("this kernel does not say how long a thread waited for a core")
    cores = os.cpu_count() or 1
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2 * cores)]
    try:
        measured = executor.time_block(job, 2000)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert isinstance(measured, BlockMeasurement)
    assert measured.cause == "waited", measured
    assert measured.waited_seconds is not None and measured.waited_seconds > 0.02


IN_GROUP = """
import os, sys, time
from pathlib import Path
from mnistbench.train.clocks import cpu_quota, throttled_seconds, usable_threads
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
before = throttled_seconds()
until = time.monotonic() + 1.0
while time.monotonic() < until:
    pass
print(throttled_seconds() - before, cpu_quota(), usable_threads(None))
"""


@pytest.mark.slow
@pytest.mark.alone
def test_the_quota_of_a_control_group_below_the_root_is_seen() -> None:
    """How long it was throttled, and how many threads are worth having (rule 13)."""
    limits = {"cpu.max": "10000 100000", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "10000"}
    with cgroup("cpu", limits) as group:
        done = subprocess.run(
            [sys.executable, "-c", IN_GROUP, str(group)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    throttled, quota, threads = map(float, done.stdout.split())
    assert throttled > 0.05
    assert (quota, threads) == (0.1, 1)


HEAP = """
import resource, torch
from mnistbench.train.clocks import HeapPages, keep_allocated

def first_touches_of(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(size, dtype=torch.uint8).fill_(0)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / size

keep_allocated()
torch.ones(1)
pages = HeapPages()
step = torch.empty(1 << 26, dtype=torch.uint8).fill_(0)  # and is not given back: the heap has to grow for the next
pages.touch_as_many_again()
small, large = 1 << 26, 5 << 29
less = 1 << 20  # for the alignment: what was freed has no room for a block of just its size
print(first_touches_of(small - less), first_touches_of(large), first_touches_of(large - less))
"""


@pytest.mark.slow  # 2.5 GB
@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_pages_are_touched_before_the_clock_and_none_is_given_back() -> None:
    ended = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    after_warm_up, first, again = map(float, ended.stdout.split())
    assert after_warm_up < 0.1
    assert first > 0.5
    assert again < 0.01, "2.5 GB that were freed are given back, and have to be cleared anew"


def test_a_measurement_is_plain_data(job: Job) -> None:
    """What a line of a file can hold."""
    measured = dataclasses.asdict(time_block(job, 2))
    assert {type(value) for value in measured.values()} <= {int, float, bool, str, type(None)}
