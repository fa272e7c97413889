"""Everything that one training needs, made from a job: network, data, step, learning rates.

Read `make_trainee` from top to bottom. What is left to measurement is settled in `warmup.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench import measurement, reproducibility
from mnistbench.cell import Cell
from mnistbench.data import arrays
from mnistbench.errors import UserError
from mnistbench.execution import Levers, fit, levers_of
from mnistbench.plugins import Plugins, load_plugins
from mnistbench.training.batches import Batches, Inputs, LoaderBatches, ResidentBatches
from mnistbench.training.losses import LOSSES

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mnistbench.training.steps import Step
    from mnistbench.training.steps.update import Update
    from mnistbench.worker import Job

Prepare = Callable[["nn.Module"], None]


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
    update: Update
    batches: Batches
    inputs: Inputs
    loss: Callable[[Tensor, Tensor], Tensor]
    learning_rates: list[float]
    test: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor] | None
    device: torch.device
    levers: Levers


def make_trainee(job: Job, device: torch.device, prepare: Prepare | None = None) -> Trainee:
    """Build what a job asks for.

    Args:
        device: where it is trained.
        prepare: called on the network before anything is made of it; the equivalence gate silences dropout so.

    Raises:
        UserError: if the network does not fit the data, or the batch is larger than it.
    """
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
    if prepare is not None:
        prepare(model)
    _check_outputs(model, data.spec, cell)
    levers = _levers_that_fit(job, model, asked, device)
    _set_precision(levers)
    channels_last = levers.memory_format == "channels_last"
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)

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


def _make_step(  # noqa: PLR0917
    job: Job, model: nn.Module, inputs: Inputs, levers: Levers, device: torch.device, plugins: Plugins
) -> tuple[Any, Step]:
    import torch
    from torch import nn

    from mnistbench.training.steps.autograd import AutogradStep
    from mnistbench.training.steps.cuda_graph import GraphStep
    from mnistbench.training.steps.update import Update

    model.train()
    loss = LOSSES[job.cell.training.loss]
    update = Update(model, job.cell.optimizer, fused=levers.fused, plugins=plugins)
    chunk = 0 if levers.chunk == "auto" else levers.chunk
    if levers.step == "written":
        from mnistbench.training.steps.written import WrittenStep

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
