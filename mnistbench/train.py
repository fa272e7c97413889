"""Trains and evaluates one cell in this process, and measures it.

Read `train_cell` from top to bottom: set-up, warm-up, epochs, record. Evaluation, set-up and warm-up are on clocks of
their own; the training clock runs around `_train_epoch` alone.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench import arrays, devices, measurement, reproducibility
from mnistbench.batches import Batches, Inputs, LoaderBatches, ResidentBatches
from mnistbench.cell import Cell
from mnistbench.errors import UserError
from mnistbench.execution import Levers, fit, levers_of
from mnistbench.losses import LOSSES, correct
from mnistbench.measurement import Stopwatch, read_counters
from mnistbench.plugins import Plugins, load_plugins
from mnistbench.records import CellRecord, EpochMeasurement, Error, Memory, Model, Noise, Timing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mnistbench.steps import Step
    from mnistbench.worker import Job

WARMUP_STEPS = 5
EVALUATION_BATCH = 1000
DIVERGENCE_CHECK = {"cpu": 50}
"""Steps between looks at the loss; on other devices a look waits for the device, so it is rarer."""

OnEpoch = Callable[[EpochMeasurement], None]


@dataclass
class Trainee:
    """Everything that one training needs, on its device.

    Attributes:
        step: forward, backward, update of a batch.
        update: holds the optimizer.
        batches: of the training data.
        learning_rates: of each step of the whole training.
        held_out: validation data, None if there is none.
    """

    model: nn.Module
    step: Step
    update: Any
    batches: Batches
    inputs: Inputs
    loss: Callable[[Tensor, Tensor], Tensor]
    learning_rates: list[float]
    test: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor] | None
    device: torch.device
    levers: Levers


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

    from mnistbench.worker import utc_now

    cell, started_at = job.cell, utc_now()
    device = torch.device(cell.device)
    watch = Stopwatch(devices.synchronizer(device))
    with watch.region("setup"):
        trainee = _set_up(job, device)
    with watch.region("warmup"):
        trainee = _choose(job, trainee)
        _warm_up(trainee, cell.seed)
    devices.reset_peak_memory(device)

    epochs: list[EpochMeasurement] = []
    error: Error | None = None
    kept = _KeptWeights(job, trainee)
    foreign = _ForeignTime()
    for number in range(1, cell.training.epochs + 1):
        measured, error = _one_epoch(trainee, number, watch, process_started, foreign)
        epochs.append(measured)
        kept.after(measured)
        on_epoch(measured)
        if error or _reached(cell, measured):
            break
    kept.finish()

    steps = sum(epoch.steps for epoch in epochs)
    flags = foreign.flags()
    if measurement.is_short(watch["train"], steps):
        flags.append("short")
    if trainee.levers.isolation == "shared":
        flags.append("shared")
    noise = Noise(
        foreign_cpu=foreign.share("foreign_cpu"),
        steal=foreign.share("steal"),
        throttled=foreign.share("throttled"),
        gpu_slowdown=devices.gpu_slowdown(device.index or 0) if device.type == "cuda" else None,
        flags=flags,
    )
    with watch.region("closing"):
        model = Model(
            parameters=sum(parameter.numel() for parameter in trainee.model.parameters() if parameter.requires_grad),
            train_flops_per_example=_flops_per_example(job, trainee),
            confusion=_confusion(trainee) if not error else None,
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
        environment=dataclasses.replace(
            reproducibility.describe_environment(cell.device), **dict(job.environment_extra)
        ),
        error=error,
    )


# --- set-up -----------------------------------------------------------------------------------------------------------


def _set_up(job: Job, device: torch.device) -> Trainee:
    import torch

    from mnistbench import architectures, optimizers, schedules

    cell = job.cell
    reproducibility.make_deterministic()
    plugins = load_plugins(job.plugins)
    data = arrays.load(Path(job.data_directory))
    asked = levers_of(cell.execution)
    threads = asked.threads or measurement.usable_threads(reproducibility.physical_cores())
    torch.set_num_threads(1 if asked.isolation == "shared" else threads)

    reproducibility.seed_everything(cell.seed)
    model = architectures.build(cell.architecture, data.spec, plugins)
    _check_outputs(model, data.spec, cell)
    levers = _levers_that_fit(job, model, asked, device)
    _set_precision(levers)
    channels_last = levers.memory_format == "channels_last"
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    normalize = bool(cell.dataset.options.get("normalize")) and data.spec.is_image
    normalization = (data.spec.mean, data.spec.std) if normalize else None
    training, held_out = _split(data, cell, device)
    batches = _batches(training, cell, levers, device, normalization)
    steps = math.ceil(batches.examples / cell.batch_size) * cell.training.epochs
    lr = optimizers.scaled_lr(cell.optimizer, cell.batch_size)
    inputs = Inputs(normalization, memory_format)
    update, step = _make_step(job, model, inputs, levers, device, plugins)
    return Trainee(
        model=model,
        step=step,
        update=update,
        batches=batches,
        inputs=inputs,
        loss=LOSSES[cell.training.loss],
        learning_rates=[lr * factor for factor in schedules.lr_factors(cell.schedule, steps)],
        test=_on_device(data.test_inputs, data.test_labels, device),
        held_out=held_out,
        device=device,
        levers=dataclasses.replace(levers, threads=torch.get_num_threads()),
    )


def _levers_that_fit(job: Job, model: nn.Module, asked: Levers, device: torch.device) -> Levers:
    if job.resolved:
        return Levers.from_json(job.resolved)
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    return fit(
        asked,
        device_type=device.type,
        has_batchnorm=any(isinstance(layer, _BatchNorm) for layer in model.modules()),
        is_sequential=type(model) is nn.Sequential,
        is_ours=":" not in job.cell.architecture.name,
    )


def _make_step(
    job: Job, model: nn.Module, inputs: Inputs, levers: Levers, device: torch.device, plugins: Plugins
) -> tuple[Any, Step]:
    import torch
    from torch import nn

    from mnistbench.steps.autograd import AutogradStep
    from mnistbench.steps.cuda_graph import GraphStep
    from mnistbench.steps.update import Update

    model.train()
    loss = LOSSES[job.cell.training.loss]
    update = Update(model, job.cell.optimizer, fused=levers.fused, plugins=plugins)
    chunk = 0 if levers.chunk == "auto" else levers.chunk
    if levers.step == "written":
        from mnistbench.steps.written import WrittenStep

        assert isinstance(model, nn.Sequential)
        return update, WrittenStep(model, loss, update, inputs, chunk=chunk)
    called = torch.compile(model) if levers.compile else model
    step = AutogradStep(called, loss, update, inputs, chunk=chunk, precision=levers.precision)  # type: ignore[arg-type]
    return update, GraphStep(step) if levers.graph and device.type == "cuda" else step


def _set_precision(levers: Levers) -> None:
    import torch

    tf32 = levers.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def _split(
    data: arrays.Arrays, cell: Cell, device: torch.device
) -> tuple[tuple[Any, Any], tuple[Tensor, Tensor] | None]:
    """Training data, and what is held out of it for validation: the end of a permutation that is the same for all."""
    held = cell.training.validation_examples
    if not held:
        return (data.train_inputs, data.train_labels), None
    order = reproducibility.order_of_examples(len(data.train_labels), 0, -1, shuffle=True).numpy()
    chosen, rest = order[: len(order) - held], order[len(order) - held :]
    training = data.train_inputs[chosen], data.train_labels[chosen]
    return training, _on_device(data.train_inputs[rest], data.train_labels[rest], device)


def _batches(
    training: tuple[Any, Any],
    cell: Cell,
    levers: Levers,
    device: torch.device,
    normalization: tuple[float, float] | None,
) -> Batches:
    if cell.batch_size > len(training[1]):
        raise UserError(
            f"batch_size {cell.batch_size} is larger than the {len(training[1])} training examples: "
            "write `full` for one batch of all"
        )
    if levers.data == "loader":
        return LoaderBatches(
            *training,
            batch_size=cell.batch_size,
            seed=cell.seed,
            shuffle=cell.training.shuffle,
            device=device,
            normalization=normalization,
        )
    inputs, labels = _on_device(*training, device)
    return ResidentBatches(inputs, labels, cell.batch_size, cell.seed, cell.training.shuffle)


def _on_device(inputs: Any, labels: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    import numpy
    import torch

    # A copy: tensors over a read-only memory map may not be written, and its pages fault in at their first use.
    return torch.from_numpy(numpy.array(inputs)).to(device), torch.from_numpy(numpy.array(labels)).to(device)


def _check_outputs(model: nn.Module, spec: arrays.DataSpec, cell: Cell) -> None:
    import torch

    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = model(torch.zeros(2, *spec.input_shape))
    shape = tuple(getattr(outputs, "shape", ()))
    if shape != (2, spec.classes):
        raise UserError(
            f"{cell.architecture.name} gives outputs of shape {list(shape)} for 2 examples of {spec.name}; "
            f"expected [2, {spec.classes}]"
        )


# --- warm-up ----------------------------------------------------------------------------------------------------------


def _choose(job: Job, trainee: Trainee) -> Trainee:
    """Settle what the levers leave to measurement; measured once per machine, build, network and batch size."""
    import torch

    from mnistbench.choices import remembered
    from mnistbench.steps.written import WrittenStep

    levers, cell = trainee.levers, job.cell
    if job.resolved:
        if isinstance(trainee.step, WrittenStep):
            from mnistbench.steps.tuning import apply

            apply(trainee.step, int(levers.chunk), levers.kernels or [])
        return trainee
    if not isinstance(trainee.step, WrittenStep):
        memory_format = "contiguous" if levers.memory_format == "auto" else levers.memory_format
        chunk = 0 if levers.chunk == "auto" else levers.chunk
        return dataclasses.replace(
            trainee, levers=dataclasses.replace(levers, memory_format=memory_format, chunk=chunk)
        )
    from mnistbench.steps.tuning import apply, tune

    step = trainee.step
    question = {
        "machine": reproducibility.machine_id(),
        "torch": torch.__version__,
        "architecture": cell.architecture.to_json(),
        "input_shape": list(trainee.test[0].shape[1:]),
        "batch_size": cell.batch_size,
        "loss": cell.training.loss,
        "threads": torch.get_num_threads(),
        "chunk": levers.chunk,
    }

    def measure() -> dict[str, Any]:
        inputs, labels = _first_batch(trainee, cell.batch_size)
        return tune(step, inputs, labels, chunk=None if levers.chunk == "auto" else levers.chunk)

    answer = remembered(question, measure)
    apply(step, answer["chunk"], answer["kernels"])
    settled = dataclasses.replace(levers, chunk=answer["chunk"], kernels=answer["kernels"], memory_format="contiguous")
    return dataclasses.replace(trainee, levers=settled)


def _first_batch(trainee: Trainee, batch_size: int) -> tuple[Tensor, Tensor]:
    """The first examples of the training data, whatever the batches come from; never a batch that training will see."""
    batches = trainee.batches
    if isinstance(batches, ResidentBatches):
        return batches.inputs[:batch_size], batches.labels[:batch_size]
    return next(iter(batches.epoch(0)))


def _warm_up(trainee: Trainee, seed: int) -> None:
    """A few steps with throw-away state, so that the first timed step is like the others; no trace is left (rule 6)."""
    import torch

    examples = trainee.batches.examples
    before = {name: tensor.detach().clone() for name, tensor in trainee.model.state_dict().items()}
    batch = getattr(trainee.batches, "batch_size", examples)
    sizes = [min(batch, examples)] * WARMUP_STEPS + ([examples % batch] if examples % batch else [])
    inputs, labels = _first_batch(trainee, sizes[0])
    for size in sizes:
        trainee.step.gradients(inputs[:size], labels[:size])
        trainee.step.update(trainee.learning_rates[0])
    with torch.no_grad():
        for name, tensor in trainee.model.state_dict().items():
            tensor.copy_(before[name])
    trainee.update.forget()
    reproducibility.seed_everything(reproducibility.derived_seed(seed, "training"))


# --- epochs -----------------------------------------------------------------------------------------------------------


class _ForeignTime:
    """Adds up interference over the timed regions: counters are read right before and after each, never within."""

    def __init__(self) -> None:
        self._sums: dict[str, float | None] = {"foreign_cpu": 0.0, "steal": 0.0, "throttled": 0.0}
        self._wall = 0.0

    def add(self, before: measurement.Counters, after: measurement.Counters) -> None:
        """Count one timed region."""
        wall = after.wall - before.wall
        found = measurement.interference(before, after)
        for name, so_far in self._sums.items():
            share = getattr(found, name)
            self._sums[name] = None if share is None or so_far is None else so_far + share * wall
        self._wall += wall

    def share(self, name: str) -> float | None:
        """Mean share over all regions, None if it could not be observed."""
        total = self._sums[name]
        return None if total is None else total / max(self._wall, 1e-9)

    def flags(self) -> list[str]:
        """Names of what was over its limit."""
        return measurement.Interference(*(self.share(name) for name in self._sums)).flags


def _one_epoch(
    trainee: Trainee, number: int, watch: Stopwatch, process_started: float, foreign: _ForeignTime
) -> tuple[EpochMeasurement, Error | None]:
    from mnistbench.worker import utc_now

    train_before, eval_before = watch["train"], watch["eval"]
    before = read_counters()
    with watch.region("train"):
        losses, rights, examples, steps = _train_epoch(trainee, number)
    foreign.add(before, read_counters())
    total, first_bad = _sum_of_finite(losses[:steps])
    diverged = first_bad is not None
    with watch.region("eval"):
        test_loss, test_accuracy = _evaluate(trainee, *trainee.test)
        validation = _evaluate(trainee, *trainee.held_out) if trainee.held_out else (None, None)
    measured = EpochMeasurement(
        epoch=number,
        examples=examples,
        steps=steps,
        train_seconds=watch["train"] - train_before,
        eval_seconds=watch["eval"] - eval_before,
        train_loss=None if diverged else total / examples,
        train_accuracy=int(rights[:steps].sum()) / examples,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        validation_loss=validation[0],
        validation_accuracy=validation[1],
        cold_seconds=time.perf_counter() - process_started,
        ended_at=utc_now(),
    )
    if first_bad is None:
        return measured, None
    step = (number - 1) * math.ceil(trainee.batches.examples / _batch_size(trainee)) + first_bad + 1
    return measured, Error(type="diverged", message=f"the loss was not finite at step {step}", step=step)


def _batch_size(trainee: Trainee) -> int:
    return int(getattr(trainee.batches, "batch_size", trainee.batches.examples))


def _train_epoch(trainee: Trainee, number: int) -> tuple[Tensor, Tensor, int, int]:
    """Each example once. All of this is timed.

    Returns:
        Sum of losses and number of right answers per step (on the device), examples, steps.
    """
    import torch

    trainee.model.train()
    expected = math.ceil(trainee.batches.examples / _batch_size(trainee))
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


def _evaluate(trainee: Trainee, stored: Tensor, labels: Tensor) -> tuple[float | None, float]:
    """Mean loss (None if it is not finite) and accuracy, in evaluation mode."""
    import torch

    trainee.model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for some, wanted in zip(stored.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            outputs = trainee.model(trainee.inputs(some)).float()
            loss += float(trainee.loss(outputs, wanted))
            right += int(correct(outputs, wanted))
    mean = loss / len(labels)
    return (mean if math.isfinite(mean) else None), right / len(labels)


def _reached(cell: Cell, measured: EpochMeasurement) -> bool:
    target = cell.training.target_accuracy
    accuracy = measured.test_accuracy
    return bool(cell.training.stop_at_target and target and accuracy is not None and accuracy >= target)


# --- after the last epoch ---------------------------------------------------------------------------------------------


class _KeptWeights:
    """Writes the weights that `save_model` asks for into the folder that the parent gave."""

    def __init__(self, job: Job, trainee: Trainee) -> None:
        self._job, self._trainee = job, trainee
        self._which = job.cell.training.save_model if job.weights_directory else None
        self._best = -1.0
        self.names: list[str] = []

    def after(self, epoch: EpochMeasurement) -> None:
        """Keep the weights of this epoch, if they are wanted. `best` is by validation where there is some."""
        if self._which == "all":
            self._save(f"{self._job.cell.cell_id}.epoch{epoch.epoch}")
        if self._which == "best":
            seen = epoch.test_accuracy if epoch.validation_accuracy is None else epoch.validation_accuracy
            if seen is not None and seen > self._best:
                self._best = seen
                self._save(self._job.cell.cell_id)

    def finish(self) -> None:
        """Keep the last weights, if they are wanted."""
        if self._which in ("last", "all"):
            self._save(self._job.cell.cell_id)

    def _save(self, name: str) -> None:
        from mnistbench.models import save_model

        spec = arrays.load(Path(self._job.data_directory)).spec
        assert self._job.weights_directory is not None
        save_model(self._trainee.model, self._job.cell, spec, Path(self._job.weights_directory) / f"{name}.safetensors")
        if f"{name}.safetensors" not in self.names:
            self.names.append(f"{name}.safetensors")


def _confusion(trainee: Trainee) -> list[list[int]]:
    """Rows are true classes, columns predicted ones, on the test data."""
    import torch

    stored, labels = trainee.test
    trainee.model.eval()
    predicted = []
    with torch.no_grad():
        for some in stored.split(EVALUATION_BATCH):
            outputs = trainee.model(trainee.inputs(some))
            predicted.append((outputs[:, 0] > 0.5).long() if outputs.shape[1] == 1 else outputs.argmax(1))
        classes = max(outputs.shape[1], 2)
        counts = torch.bincount(labels * classes + torch.cat(predicted), minlength=classes * classes)
    rows: list[list[int]] = counts.view(classes, classes).tolist()
    return rows


def _flops_per_example(job: Job, trainee: Trainee) -> float | None:
    """Forward and backward of one example by torch's own counter; None where it cannot count."""
    import torch

    from mnistbench.choices import remembered

    def measure() -> dict[str, Any]:
        from torch.utils.flop_counter import FlopCounterMode

        examples = 4
        trainee.model.train()
        try:
            counter = FlopCounterMode(display=False)
            with counter, torch.enable_grad():
                outputs = trainee.model(trainee.inputs(trainee.test[0][:examples]))
                trainee.loss(outputs.float(), trainee.test[1][:examples]).backward()
            return {"flops": counter.get_total_flops() / examples}
        except Exception:  # a plug-in's layer that the counter does not know
            return {"flops": None}

    question = {
        "flops": job.cell.architecture.to_json(),
        "input_shape": list(trainee.test[0].shape[1:]),
        "loss": job.cell.training.loss,
        "torch": torch.__version__,
    }
    flops: float | None = remembered(question, measure)["flops"]
    return flops


def _process_peak() -> int | None:
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:
        return None
