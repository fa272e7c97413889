"""Times one block of a setting: a piece of a real epoch, in a process that does nothing else (docs/measurement.md).

Speed is told from many short blocks, each in a fresh process, in which all settings take their turns; accuracy from
whole trainings (`train.py`). A block keeps nothing, and writes nothing to disk.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnistbench.axes import devices
from mnistbench.train.clocks import HeapPages, difference, throttled_seconds, waited_seconds, waited_since
from mnistbench.train.epoch import take_steps
from mnistbench.train.equivalence import check as equivalence
from mnistbench.train.machine import describe_environment
from mnistbench.train.setup import Trainee, make_trainee
from mnistbench.train.warmup import choose

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.results.records import Environment
    from mnistbench.train.job import Job

BLOCK_SECONDS, BLOCK_STEPS = 0.1, 2
"""A block is the longer of the two."""
WARMUP_SECONDS = 0.1
WAITED_SECONDS, WAITED_SHARE = 0.005, 0.02
"""A block was disturbed if its threads together waited for a core longer than both."""


@dataclass(frozen=True, kw_only=True)
class BlockMeasurement:
    """What a block came to.

    Attributes:
        steps: whole steps that were taken.
        examples: that were trained on in them.
        seconds: by a monotonic clock, the device synchronized at both reads.
        waited_seconds: that threads of this process were ready to run and had no core; None where nobody tells.
        throttled_seconds: that the process's control groups were not let run; None where nobody tells.
        gpu_slowdown: whether the GPU reported one; None if unknown, or there is no GPU.
        cause: what disturbed it: `waited`, `throttled`, `gpu_slowdown`; `unknown` where waiting cannot be observed;
            None for a clean block.
        pid: of the process.
    """

    steps: int
    examples: int
    seconds: float
    waited_seconds: float | None
    throttled_seconds: float | None
    gpu_slowdown: bool | None
    cause: str | None
    pid: int


@dataclass(frozen=True, kw_only=True)
class SettledSetting:
    """What is found out once about a setting, before its first block.

    Attributes:
        resolved: its levers as they were chosen; as `Job.resolved` they let a block choose nothing.
        equivalence: what the gate says of it, as in a record's `checks`.
        steps: of each of its blocks: as many as take 0.1 s, two at least.
        environment: where it was settled.
    """

    resolved: Mapping[str, Any]
    equivalence: str
    steps: int
    environment: Environment


def settle_setting(job: Job, *, on_epoch: object = None, process_started: float = 0.0) -> SettledSetting:
    """Choose a setting's kernels, hold it against the equivalence gate, and find out how long a block is.

    Choices and the gate's answers are kept in the user's cache.
    """
    import torch

    trainee = choose(job, make_trainee(job, torch.device(job.cell.device)))
    answer = equivalence.check_trainee(job, trainee)
    trainee.model.train()
    trainee.update.train()
    return SettledSetting(
        resolved=trainee.levers.to_json(),
        equivalence=answer,
        steps=_steps_that_take(trainee, BLOCK_SECONDS),
        environment=describe_environment(job.cell.device),
    )


def time_block(job: Job, steps: int, *, on_epoch: object = None, process_started: float = 0.0) -> BlockMeasurement:
    """Set up, warm up, and time one block.

    Args:
        job: whose cell is trained; its seed gives weights and order. With `resolved`, nothing is chosen.
        steps: whole ones.
        on_epoch, process_started: are not looked at: a block has no epochs, and is not timed from cold.
    """
    import torch

    device = torch.device(job.cell.device)
    synchronize = devices.synchronizer(device)
    trainee = choose(job, make_trainee(job, device))
    trainee.model.train()
    trainee.update.train()
    _warm_up(trainee, steps)

    slowed_before, throttled_before = devices.slowed_seconds(device), throttled_seconds()
    waited_before = waited_seconds()
    synchronize()
    start = time.perf_counter()
    examples, taken = _take(trainee, steps)
    synchronize()
    seconds = time.perf_counter() - start
    waited = waited_since(waited_before, waited_seconds())
    throttled = difference(throttled_before, throttled_seconds())
    slowed = devices.has_slowed(slowed_before, devices.slowed_seconds(device))
    return BlockMeasurement(
        steps=taken,
        examples=examples,
        seconds=seconds,
        waited_seconds=waited,
        throttled_seconds=throttled,
        gpu_slowdown=slowed,
        cause=find_cause(seconds, torch.get_num_threads(), waited, throttled, slowed),
        pid=os.getpid(),
    )


def find_cause(
    seconds: float, threads: int, waited: float | None, throttled: float | None, gpu_slowdown: bool | None
) -> str | None:
    """What disturbed a block; None if nothing did (rule 12)."""
    checks = [
        (waited is not None and waited > max(WAITED_SECONDS, WAITED_SHARE * seconds * threads), "waited"),
        (bool(throttled), "throttled"),
        (bool(gpu_slowdown), "gpu_slowdown"),
        (waited is None, "unknown"),
    ]
    return next((cause for holds, cause in checks if holds), None)


def _take(trainee: Trainee, steps: int) -> tuple[int, int]:
    """Steps from the beginning of the first epoch; orders are drawn and batches chosen in here.

    Returns:
        Examples and steps: more where a graph holds several, fewer only where the loss is not finite any more.
    """
    factors = list(itertools.islice(itertools.cycle(trainee.factors), steps + trainee.batches.together))
    _, _, examples, taken = take_steps(trainee, _batches(trainee, steps), factors)
    return examples, taken


def _batches(trainee: Trainee, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in itertools.count(1):
        for inputs, labels in trainee.batches.epoch(number):
            yield inputs, labels
            steps -= math.ceil(len(labels) / trainee.batches.batch_size)
            if steps <= 0:
                return


def _steps_that_take(trainee: Trainee, seconds: float) -> int:
    synchronize = devices.synchronizer(trainee.device)
    _take(trainee, 1)
    steps = BLOCK_STEPS
    while True:
        synchronize()
        start = time.perf_counter()
        _take(trainee, steps)
        synchronize()
        took = time.perf_counter() - start
        if took > seconds / 2:
            return max(BLOCK_STEPS, math.ceil(steps * seconds / took))
        steps *= 2


def _warm_up(trainee: Trainee, steps: int) -> None:
    """For 0.1 s, one step at least, through the block's own lines: nobody asks what its network has learnt.

    Other sizes of batches come before: kernels and graphs are made for each. The last, partial batch is among them
    only where the block comes to it.
    """
    synchronize = devices.synchronizer(trainee.device)
    batches = trainee.batches
    with_last = steps >= math.ceil(batches.examples / batches.batch_size)
    until = time.perf_counter() + WARMUP_SECONDS
    pages = HeapPages()
    rehearsed = [batch for batch in batches.rehearsal(1) if with_last or len(batch[1]) >= batches.batch_size]
    take_steps(trainee, rehearsed[1:], trainee.factors[:1] * (batches.together + 2))
    while True:
        _take(trainee, 1)
        synchronize()
        if time.perf_counter() >= until:
            break
    pages.touch_as_many_again()
