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

from mnistbench.axes import devices
from mnistbench.cell import Cell
from mnistbench.errors import UserError
from mnistbench.results.records import CellRecord, EpochMeasurement, Error, Memory, Model, Noise, Timing, utc_now
from mnistbench.train import clocks as measurement
from mnistbench.train import machine as reproducibility
from mnistbench.train.clocks import InterferenceMeter, Stopwatch, read_counters
from mnistbench.train.energy import NOT_MEASURABLE, EnergyMeter, energy_meter
from mnistbench.train.epoch import take_steps
from mnistbench.train.equivalence import check as equivalence
from mnistbench.train.evaluate import Score, evaluate, flops_per_example, is_finite
from mnistbench.train.kept_weights import KeptWeights
from mnistbench.train.probe import take_probe
from mnistbench.train.setup import Trainee, make_trainee
from mnistbench.train.warmup import choose, warm_up

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.train.job import Job

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
    choosing = time.perf_counter()
    with watch.region("warmup"):
        trainee = choose(job, trainee)
    # Kernels are chosen once for a machine, and a later run of this cell does not do it again: it stands outside the
    # times from cold, and outside the peak of memory.
    cold_started = process_started + time.perf_counter() - choosing
    measurement.reset_process_peak()
    with watch.region("warmup"):
        warm_up(trainee, cell.seed)
    probes = [take_probe(device, trainee.levers.precision, watch.synchronize)]
    devices.reset_peak_memory(device)
    slowed_before = devices.slowed_seconds(device)

    epochs: list[EpochMeasurement] = []
    error: Error | None = None
    kept = KeptWeights(job, trainee)
    foreign = InterferenceMeter()
    energy = energy_meter(device, trainee.levers.isolation)
    for number in range(1, cell.training.epochs + 1):
        measured, test, error = _one_epoch(trainee, number, watch, cold_started, foreign, energy=energy)
        epochs.append(measured)
        if error is None:
            kept.after(measured)
        on_epoch(measured)
        if error or _reached(cell, measured):
            break
    slowed = devices.has_slowed(slowed_before, devices.slowed_seconds(device))
    device_peak_bytes = devices.peak_memory(device)  # the probe below needs more than a small network
    probes.append(take_probe(device, trainee.levers.precision, watch.synchronize))
    kept.finish(diverged=error is not None)

    steps = sum(epoch.steps for epoch in epochs)
    interference = foreign.found()
    flags = interference.flags
    if measurement.is_short(watch["train"], steps):
        flags.append("short")
    if trainee.levers.isolation == "shared":
        flags.append("shared")
    if slowed:
        flags.append("gpu_slowdown")
    noise = Noise(
        probe={name: [probe.seconds[name] for probe in probes] for name in probes[0].seconds},
        **vars(interference),
        gpu_slowdown=slowed,
        flags=flags,
    )
    with watch.region("closing"):
        trainee.model.train()  # some networks say here which of their parameters are trained
        model = Model(
            parameters=sum(parameter.numel() for parameter in trainee.model.parameters() if parameter.requires_grad),
            confusion=None if error else test.confusion,
            weights_sha256=reproducibility.weights_sha256(trainee.model),
            train_flops_per_example=flops_per_example(trainee),
            weights=kept.names,
        )
    checks = {"equivalence": equivalence.check_trainee(job, trainee), **kept.checks}  # on no clock of the record
    if trainee.warnings:
        checks["outputs"] = "; ".join(trainee.warnings)
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
        memory=Memory(
            process_peak_bytes=measurement.process_peak() if job.own_process else None,
            device_peak_bytes=device_peak_bytes,
        ),
        noise=noise,
        checks=checks,
        environment=dataclasses.replace(
            reproducibility.describe_environment(cell.device),
            **{
                "peak_flops": {
                    f"{cell.device}/{trainee.levers.precision}": max(probe.flops_per_second for probe in probes)
                },
                "energy_source": energy.source,
                **job.environment_extra,
            },
        ),
        error=error,
    )


def _one_epoch(
    trainee: Trainee,
    number: int,
    watch: Stopwatch,
    cold_started: float,
    foreign: InterferenceMeter,
    *,
    energy: EnergyMeter = NOT_MEASURABLE,
) -> tuple[EpochMeasurement, Score, Error | None]:
    train_before, eval_before = watch["train"], watch["eval"]
    trainee.model.train()
    before, joules_before = read_counters(), energy.read()
    with watch.region("train"):
        trainee.update.train()
        losses, rights, examples, steps = _train_epoch(trainee, number)
    joules_after, after = energy.read(), read_counters()
    foreign.add(before, after)
    means = losses[:steps].tolist()
    first_bad = next((index for index, loss in enumerate(means) if not math.isfinite(loss)), None)
    with watch.region("eval"):
        trainee.update.eval()
        test = evaluate(trainee, *trainee.test)
        validation = evaluate(trainee, *trainee.held_out) if trainee.held_out else None
    train_loss = None if first_bad is not None else _mean_over_examples(means, trainee, examples)
    measured = EpochMeasurement(
        epoch=number,
        examples=examples,
        steps=steps,
        train_seconds=watch["train"] - train_before,
        eval_seconds=watch["eval"] - eval_before,
        train_loss=train_loss,
        train_accuracy=None if first_bad is not None else int(rights[:steps].sum()) / examples,
        test_loss=test.loss,
        test_accuracy=test.accuracy,
        validation_loss=validation.loss if validation else None,
        validation_accuracy=validation.accuracy if validation else None,
        cold_seconds=time.perf_counter() - cold_started,
        ended_at=utc_now(),
        train_joules=energy.between(joules_before, joules_after),
    )
    step = (number - 1) * math.ceil(trainee.batches.examples / trainee.batches.batch_size)
    step += steps if first_bad is None else first_bad + 1
    if name := trainee.update.left_out():
        raise UserError(
            f"`{name}` needs a gradient now, and its optimizer was not given it, so that it is not trained: make it in"
            " the constructor and let it need one there (a layer may be frozen later), or let the optimizer ask for the"
            " `model`"
        )
    checks = [  # the last step's update shows in no training loss
        (first_bad is not None, f"the loss was not finite at step {step}"),
        (not is_finite(trainee), f"weights were not finite after step {step}"),
        (test.loss is None, f"the test loss was not finite after step {step}"),
    ]
    if reason := next((reason for applies, reason in checks if applies), ""):
        return measured, test, Error(type="diverged", message=reason, step=step)
    loss = trainee.builder.cell.training.loss.name
    if train_loss is not None and train_loss < -1e-6 and ":" not in loss:
        raise UserError(
            f"the training loss is {train_loss:.3g}, and {loss} cannot be below 0:"
            " the network's outputs are not what this loss takes"
        )
    return measured, test, None


def _mean_over_examples(means: list[float], trainee: Trainee, examples: int) -> float:
    """As a tutorial adds them up: each batch's mean times its examples; the last batch may be smaller."""
    size = min(trainee.batches.batch_size, examples)
    return sum(mean * min(size, examples - index * size) for index, mean in enumerate(means)) / examples


def _train_epoch(trainee: Trainee, number: int) -> tuple[Tensor, Tensor, int, int]:
    """Each example once, in training mode. All of this is timed.

    Returns:
        As `take_steps`.
    """
    expected = math.ceil(trainee.batches.examples / trainee.batches.batch_size)
    factors = trainee.factors[(number - 1) * expected : number * expected]
    return take_steps(trainee, trainee.batches.epoch(number), factors)


def _reached(cell: Cell, measured: EpochMeasurement) -> bool:
    target, accuracy = cell.training.stops_at, measured.test_accuracy
    return target is not None and accuracy is not None and accuracy >= target
