"""Trains and evaluates one cell in this process, and measures it.

Read `train_cell` from top to bottom: set-up, warm-up, epochs, record. Evaluation, set-up and warm-up are on clocks of
their own; the training clock runs around `_train_epoch` alone.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mnistbench import devices, equivalence, measurement, reproducibility
from mnistbench.cell import Cell
from mnistbench.measurement import InterferenceMeter, Stopwatch, read_counters
from mnistbench.records import CellRecord, EpochMeasurement, Error, Memory, Model, Noise, Timing, utc_now
from mnistbench.training.evaluation import Evaluation, evaluate, flops_per_example
from mnistbench.training.kept_weights import KeptWeights
from mnistbench.training.probe import take_probe
from mnistbench.training.trainee import Trainee, make_trainee
from mnistbench.training.warmup import choose, warm_up

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.worker import Job

DIVERGENCE_CHECK = {"cpu": 50}
"""Steps between looks at the loss; on other devices a look waits for the device, so it is rarer."""

OnEpoch = Callable[[EpochMeasurement], None]


def train_cell(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Train a cell once.

    Args:
        job: the cell, and where its data lies.
        on_epoch: called after each evaluation, off every clock.
        process_started: `time.perf_counter()` when this process began, for times from cold.

    Returns:
        A record that is `finished` or `diverged`. What is raised (out of memory, errors of a plug-in) is for the caller
        to record.
    """
    import torch

    cell, started_at = job.cell, utc_now()
    device = torch.device(cell.device)
    watch = Stopwatch(devices.synchronizer(device))
    with watch.region("setup"):
        trainee = make_trainee(job, device)
    with watch.region("warmup"):
        trainee = choose(job, trainee)
        warm_up(trainee, cell.seed)
    probes = [take_probe(device, trainee.levers.precision, watch.synchronize)]
    devices.reset_peak_memory(device)

    epochs: list[EpochMeasurement] = []
    error: Error | None = None
    kept = KeptWeights(job, trainee)
    foreign = InterferenceMeter()
    for number in range(1, cell.training.epochs + 1):
        measured, test, error = _one_epoch(trainee, number, watch, process_started, foreign)
        epochs.append(measured)
        kept.after(measured)
        on_epoch(measured)
        if error or _reached(cell, measured):
            break
    probes.append(take_probe(device, trainee.levers.precision, watch.synchronize))
    kept.finish()

    steps = sum(epoch.steps for epoch in epochs)
    interference = foreign.found()
    flags = interference.flags
    if measurement.is_short(watch["train"], steps):
        flags.append("short")
    if trainee.levers.isolation == "shared":
        flags.append("shared")
    noise = Noise(
        probe={name: [probe.seconds[name] for probe in probes] for name in probes[0].seconds},
        foreign_cpu=interference.foreign_cpu,
        steal=interference.steal,
        throttled=interference.throttled,
        gpu_slowdown=devices.gpu_slowdown(device.index or 0) if device.type == "cuda" else None,
        flags=flags,
    )
    with watch.region("closing"):
        model = Model(
            parameters=sum(parameter.numel() for parameter in trainee.model.parameters() if parameter.requires_grad),
            train_flops_per_example=flops_per_example(job, trainee),
            confusion=None if error else test.confusion,
            weights_sha256=reproducibility.weights_sha256(trainee.model),
            weights=kept.names,
        )
    return job.record(
        "diverged" if error else "finished",
        started_at,
        execution_resolved=trainee.levers.to_json(),
        epochs=epochs,
        timing=Timing(
            setup_seconds=watch["setup"],
            warmup_seconds=watch["warmup"],
            train_seconds=watch["train"],
            eval_seconds=watch["eval"],
            wall_seconds=time.perf_counter() - process_started,
        ),
        model=model,
        memory=Memory(process_peak_bytes=_process_peak(), device_peak_bytes=devices.peak_memory(device)),
        noise=noise,
        checks={"equivalence": equivalence.check_job(job, trainee.levers), **kept.checks},  # on no clock of the record
        environment=dataclasses.replace(
            reproducibility.describe_environment(cell.device),
            **{
                "peak_flops": {
                    f"{cell.device}/{trainee.levers.precision}": max(probe.flops_per_second for probe in probes)
                },
                **job.environment_extra,
            },
        ),
        error=error,
    )


def _one_epoch(
    trainee: Trainee, number: int, watch: Stopwatch, process_started: float, foreign: InterferenceMeter
) -> tuple[EpochMeasurement, Evaluation, Error | None]:
    train_before, eval_before = watch["train"], watch["eval"]
    trainee.model.train()
    before = read_counters()
    with watch.region("train"):
        losses, rights, examples, steps = _train_epoch(trainee, number)
    foreign.add(before, read_counters())
    total, first_bad = _sum_of_finite(losses[:steps])
    diverged = first_bad is not None
    with watch.region("eval"):
        test = evaluate(trainee, *trainee.test)
        validation = evaluate(trainee, *trainee.held_out) if trainee.held_out else None
    measured = EpochMeasurement(
        epoch=number,
        examples=examples,
        steps=steps,
        train_seconds=watch["train"] - train_before,
        eval_seconds=watch["eval"] - eval_before,
        train_loss=None if diverged else total / examples,
        train_accuracy=int(rights[:steps].sum()) / examples,
        test_loss=test.loss,
        test_accuracy=test.accuracy,
        validation_loss=validation.loss if validation else None,
        validation_accuracy=validation.accuracy if validation else None,
        cold_seconds=time.perf_counter() - process_started,
        ended_at=utc_now(),
    )
    if first_bad is None:
        return measured, test, None
    step = (number - 1) * math.ceil(trainee.batches.examples / trainee.batches.batch_size) + first_bad + 1
    return measured, test, Error(type="diverged", message=f"the loss was not finite at step {step}", step=step)


def _train_epoch(trainee: Trainee, number: int) -> tuple[Tensor, Tensor, int, int]:
    """Each example once, in training mode. All of this is timed.

    Returns:
        Sum of losses and number of right answers per step (on the device), examples, steps.
    """
    import torch

    expected = math.ceil(trainee.batches.examples / trainee.batches.batch_size)
    losses = torch.zeros(expected, device=trainee.device)
    rights = torch.zeros(expected, dtype=torch.int64, device=trainee.device)
    rates = trainee.learning_rates[(number - 1) * expected : number * expected]
    look_every = DIVERGENCE_CHECK.get(trainee.device.type, 500)
    step, examples, steps = trainee.step, 0, 0
    for inputs, labels in trainee.batches.epoch(number):
        loss, right = step.gradients(inputs, labels)
        step.update(rates[steps])
        losses[steps] = loss
        rights[steps] = right
        examples += len(labels)
        steps += 1
        if steps % look_every == 0 and not math.isfinite(losses[steps - 1].item()):
            break
    return losses, rights, examples, steps


def _sum_of_finite(losses: Tensor) -> tuple[float, int | None]:
    """Sum, and the index of the first loss that is not finite."""
    finite = losses.isfinite()
    if bool(finite.all()):
        return float(losses.double().sum()), None
    return math.nan, int((~finite).nonzero()[0])


def _reached(cell: Cell, measured: EpochMeasurement) -> bool:
    target, accuracy = cell.training.stops_at, measured.test_accuracy
    return target is not None and accuracy is not None and accuracy >= target


def _process_peak() -> int | None:
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:
        return None
