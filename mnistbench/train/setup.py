"""Everything that one training needs, made from a job: network, data, step, learning rates.

Read `make_trainee` from top to bottom. What is left to measurement is settled in `warmup.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnistbench.axes import architectures, losses, optimizers, schedules
from mnistbench.axes.execution import Levers, fit, levers_of
from mnistbench.axes.losses import Loss
from mnistbench.axes.plugins import Plugins, load_plugins
from mnistbench.cell import Cell
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data import arrays
from mnistbench.errors import UserError
from mnistbench.train import clocks as measurement
from mnistbench.train import machine as reproducibility
from mnistbench.train.batches import Batches, Inputs, LoaderBatches, ResidentBatches
from mnistbench.train.steps.autograd import AutogradStep
from mnistbench.train.steps.cuda_graph import GraphStep, steps_at_once
from mnistbench.train.steps.update import Update

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mnistbench.train.job import Job
    from mnistbench.train.steps import Step
    from mnistbench.train.steps.update import Asks

Prepare = Callable[["nn.Module"], None]


@dataclass(frozen=True)
class Builder:
    """Builds a cell's network and what trains it, as often as it is asked to, each time the same from the cell's seed.

    Whatever is only tried (outputs, kernels, warm-up, FLOPs, the equivalence gate) is tried on a network of its own, so
    that the one that is trained has done nothing before its first step: no count of calls in Python, no running
    statistic, no state of an optimizer needs to be put back.

    Attributes:
        threads: of torch; what a constructor sets is set back, and remembered in `threads_set`.
    """

    cell: Cell
    spec: DataSpec
    plugins: Plugins
    device: torch.device
    threads: int
    threads_set: set[int] = field(default_factory=set)

    def network(self, prepare: Prepare | None = None) -> nn.Module:
        """The network on the CPU, in fp32.

        Args:
            prepare: called on the network before anything is made of it; the equivalence gate silences dropout so.
        """
        import torch

        reproducibility.seed_everything(self.cell.seed)
        model = architectures.build(self.cell.architecture, self.spec, self.plugins)
        if (threads := torch.get_num_threads()) != self.threads:
            self.threads_set.add(threads)
            torch.set_num_threads(self.threads)
        if prepare is not None:
            prepare(model)
        return model

    def parts(
        self, levers: Levers, inputs: Inputs, asks: Asks, prepare: Prepare | None = None
    ) -> tuple[nn.Module, Update, Step]:
        """Network on the device, optimizer, step. Nobody has called `train()` yet: a network may count its epochs."""
        import torch
        from torch import nn

        cell = self.cell
        model = self.network(prepare).to(self.device)
        if levers.memory_format == "channels_last":
            model = model.to(memory_format=torch.channels_last)
        update = Update(
            model,
            cell.optimizer,
            fused=levers.fused,
            in_graph=has_graphs(levers, self.device),
            is_ours=":" not in cell.architecture.name,
            lr_scale=optimizers.lr_scale(cell.optimizer, cell.batch_size),
            asks=asks,
            plugins=self.plugins,
        )
        loss = losses.build(cell.training.loss, self.plugins, self.device)
        chunk = 0 if levers.chunk == "auto" else levers.chunk
        if levers.step == "written":
            from mnistbench.train.steps.tuning import apply
            from mnistbench.train.steps.written import WrittenStep

            assert isinstance(model, nn.Sequential)
            written = WrittenStep(model, loss, update, inputs, chunk=chunk)
            if levers.kernels:
                apply(written, chunk, levers.kernels)
            return model, update, written
        if levers.kernels and levers.convolutions == "fastest":
            from mnistbench.train.steps import convolution

            convolution.apply(model, levers.kernels)
        called: nn.Module = torch.compile(model) if levers.compile else model  # type: ignore[assignment]
        step = AutogradStep(called, loss, update, inputs, chunk=chunk, precision=levers.precision)
        if has_graphs(levers, self.device):
            return model, update, GraphStep(step, update, model, cell.batch_size)
        return model, update, step


def has_graphs(levers: Levers, device: torch.device) -> bool:
    """Whether steps are replayed as CUDA graphs."""
    return levers.graph and device.type == "cuda"


@dataclass
class Trainee:
    """Everything that one training needs, on its device.

    Attributes:
        step: forward and backward of a batch.
        update: holds the optimizer.
        batches: of the training data.
        factors: of the learning rates at each step of the whole training, by the schedule.
        held_out: validation data, None if there is none.
        warnings: what was found of its outputs that a reader should know.
        builder: makes the network anew.
    """

    model: nn.Module
    step: Step
    update: Update
    batches: Batches
    inputs: Inputs
    loss: Loss
    factors: list[float]
    test: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor] | None
    device: torch.device
    levers: Levers
    warnings: list[str]
    builder: Builder

    def anew(
        self, *, levers: Levers | None = None, asks: Asks | None = None, prepare: Prepare | None = None
    ) -> Trainee:
        """The same with a network, an optimizer and a step of its own, as they were before anything ran."""
        levers = levers or self.levers
        model, update, step = self.builder.parts(levers, self.inputs, asks or self.update.asks, prepare)
        return dataclasses.replace(self, model=model, update=update, step=step, levers=levers)

    def take_step(self, inputs: Tensor, labels: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Gradients and update; returns the batch's mean loss and right answers before it."""
        return self.update.step(lambda: self.step.gradients(inputs, labels), factor)

    def take_steps(self, inputs: Tensor, labels: Tensor, factors: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The same for one batch, or for several that a graph replays together: a result [steps] of each."""
        if self.update.fits_graph:
            return cast("GraphStep", self.step).take(inputs, labels, factors)
        return self.take_step(inputs, labels, factors[0])


def make_trainee(job: Job, device: torch.device) -> Trainee:
    """Build what a job asks for.

    Args:
        device: where it is trained.

    Raises:
        UserError: if the network fits neither the data nor the loss, or the batch is larger than the data.
    """
    import torch

    cell = job.cell
    reproducibility.make_deterministic()
    plugins = load_plugins(job.plugins)
    data = arrays.load(Path(job.data_directory))
    asked = levers_of(cell.execution)
    threads = asked.threads or measurement.usable_threads(reproducibility.physical_cores())
    threads = 1 if asked.isolation == "shared" else threads
    torch.set_num_threads(threads)

    builder = Builder(cell, data.spec, plugins, device, threads)
    normalize = bool(cell.data_options.get("normalize")) and data.spec.is_image
    normalization = (data.spec.mean, data.spec.std) if normalize else None
    probe = builder.network()
    if torch.get_default_dtype() != torch.float32:
        raise UserError(
            f"torch's default type of numbers was set to {str(torch.get_default_dtype()).removeprefix('torch.')} by a"
            " plug-in, and the data is float32: leave it, and let the network convert itself in its constructor"
            " (`self.double()`) and its input in `forward` (`x.double()`)"
        )
    warnings = _check_outputs(probe, data, builder, Inputs(normalization, torch.contiguous_format))
    own = [name for name in ("training_step", "configure_optimizers") if callable(getattr(probe, name, None))]
    if own:  # Lightning's
        verb = "is" if len(own) == 1 else "are"
        warnings.append(f"its {' and '.join(own)} {verb} not called: loss and optimizer are those of the grid")
    levers = dataclasses.replace(_levers_that_fit(job, probe, asked, device), threads=threads)
    if not job.resolved and (reason := _overruled(builder, asked)):
        levers = levers.without("threads", threads, reason)
    _set_backends(levers)
    channels_last = levers.memory_format == "channels_last"
    inputs = Inputs(normalization, torch.channels_last if channels_last else torch.contiguous_format)

    training, held_out = _split(data, cell, device)
    batches = _batches(training, cell, levers, device, normalization)
    steps = math.ceil(batches.examples / cell.batch_size) * cell.training.epochs
    model, update, step = builder.parts(levers, inputs, "step")
    _refuse_shared(probe, model, cell)
    if update.fits_graph and isinstance(batches, ResidentBatches):
        batches = dataclasses.replace(batches, together=steps_at_once(cell.batch_size))
    return Trainee(
        model=model,
        step=step,
        update=update,
        batches=batches,
        inputs=inputs,
        loss=losses.build(cell.training.loss, plugins, device),
        factors=schedules.lr_factors(cell.schedule, steps, plugins),
        test=_on_device(data.test_inputs, data.test_labels, device),
        held_out=held_out,
        device=device,
        levers=levers,
        warnings=warnings,
        builder=builder,
    )


def _overruled(builder: Builder, asked: Levers) -> str:
    """Who else wanted to say how many threads there are."""
    if builder.threads_set:
        return f"the network's constructor set {max(builder.threads_set)}; say `threads` under `execution`"
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if not asked.threads and wanted.isdigit() and int(wanted) != builder.threads:
        return f"OMP_NUM_THREADS is {wanted}; say `threads` under `execution`"
    return ""


def run_unseen(model: nn.Module, inputs: Tensor) -> Any:
    """What a network gives in evaluation mode; no random number is used up."""
    import torch

    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return model(inputs)


def _levers_that_fit(job: Job, model: nn.Module, asked: Levers, device: torch.device) -> Levers:
    levers = Levers.from_json(job.resolved) if job.resolved else _fitted(job, model, asked, device)
    return levers.without("graph", False, job.without_graph) if job.without_graph and levers.graph else levers


def _fitted(job: Job, model: nn.Module, asked: Levers, device: torch.device) -> Levers:
    from torch.nn.modules.batchnorm import _BatchNorm

    from mnistbench.train.steps.written import why_not

    parts = {"network": job.cell.architecture, "loss": job.cell.training.loss}
    return fit(
        asked,
        device_type=device.type,
        has_batchnorm=any(isinstance(layer, _BatchNorm) for layer in model.modules()),
        why_not_written=why_not(model),
        may_mix=next((f"a plug-in's {part}" for part, held in parts.items() if ":" in held.name), ""),
    )


def _set_backends(levers: Levers) -> None:
    import torch

    torch.backends.cudnn.benchmark = levers.benchmark  # among deterministic engines: see `make_deterministic`
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
    ahead = cell.training.epochs if device.type == "cuda" else 0
    return ResidentBatches(inputs, labels, cell.batch_size, cell.seed, cell.training.shuffle, drawn_ahead=ahead)


def _on_device(inputs: Any, labels: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    import numpy
    import torch

    # A copy: tensors over a read-only memory map may not be written, and its pages fault in at their first use.
    return torch.from_numpy(numpy.array(inputs)).to(device), torch.from_numpy(numpy.array(labels)).to(device)


def _refuse_shared(one: nn.Module, other: nn.Module, cell: Cell) -> None:
    """Two networks that train the same parameters: what is only tried would train the one that is measured.

    Raises:
        UserError: naming such a parameter.
    """
    theirs = {id(each) for each in one.parameters() if each.requires_grad}
    shared = next((name for name, each in other.named_parameters() if id(each) in theirs), None)
    if shared is not None:
        raise UserError(
            f"{cell.architecture.name} gives the same `{shared}` each time it is called: warm-up, and other cells,"
            " would train it too; make the layers inside the function or the constructor"
        )


CHECKED_EXAMPLES = 64
"""Of the training data, shown to an untrained network."""


def _check_outputs(model: nn.Module, data: arrays.Arrays, builder: Builder, inputs: Inputs) -> list[str]:
    """Whether the outputs are what data and loss need.

    Returns:
        Warnings: outputs that the loss takes, though they are hardly what was meant.

    Raises:
        UserError: for outputs of another shape, or of which the loss would be meaningless.
    """
    import torch

    cell = builder.cell
    spec, loss = data.spec, cell.training.loss.name
    stored = torch.from_numpy(data.train_inputs[:CHECKED_EXAMPLES].copy())
    given = inputs(stored)
    before, parameters = given.clone(), {name for name, _ in model.named_parameters()}
    try:
        outputs = run_unseen(model, given)
    except Exception as error:
        error.add_note(f"it was given inputs of shape {list(given.shape)}")
        raise
    if made := [name for name, _ in model.named_parameters() if name not in parameters]:
        raise UserError(
            f"{cell.architecture.name} makes `{made[0]}` in its first forward pass, which no optimizer would train:"
            " make it in the constructor, or of torch's lazy layers (nn.LazyLinear, nn.LazyConv2d)"
        )
    are_data = given.data_ptr() == stored.data_ptr()
    if are_data and not cell.training.shuffle:  # batches of training are slices of the data then
        model.train()
        with contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):  # training tells
            model(given)
    if are_data and not torch.equal(given, before):
        raise UserError(
            f"{cell.architecture.name} writes into its input, which is the data: every epoch would see other numbers;"
            " let `forward` work on a new tensor (`x = x / 2`, not `x /= 2`)"
        )
    if not isinstance(outputs, torch.Tensor):
        raise UserError(
            f"{cell.architecture.name} returns a {type(outputs).__name__}; one tensor [n, {spec.classes}] is needed:"
            " wrap it in a module that returns the outputs alone"
        )
    shape, wanted = tuple(outputs.shape), (len(stored), spec.classes)
    if shape != wanted:
        raise UserError(
            f"{cell.architecture.name} gives outputs of shape {list(shape)} for {len(stored)} examples of {spec.name}; "
            f"expected {list(wanted)}"
        )
    if not outputs.is_floating_point():
        raise UserError(
            f"{cell.architecture.name} gives {str(outputs.dtype).removeprefix('torch.')} outputs, of which there is no"
            " loss: end it with real numbers (`.real` or `.abs()` of complex ones)"
        )
    if not bool(outputs.isfinite().all()):
        return []  # training tells
    if ":" in loss:
        return _check_own_loss(builder, outputs.float(), torch.from_numpy(data.train_labels[:CHECKED_EXAMPLES].copy()))
    outputs = outputs.double()
    sums = outputs.exp().sum(1)
    if loss == "nll" and not bool(((sums - 1).abs() < 1e-3).all()):
        raise UserError(
            f"loss nll takes log-probabilities, and those that {cell.architecture.name} gives add up to"
            f" {float(sums[0]):.3g}: end it with nn.LogSoftmax(dim=1), or use cross_entropy"
        )
    outside = bool((outputs < 0).any() or (outputs > 1).any())
    if loss == "bce" and outside:
        raise UserError(
            f"loss bce takes probabilities, and {cell.architecture.name} gives {float(outputs.min()):.3g} to"
            f" {float(outputs.max()):.3g}: end it with nn.Sigmoid()"
        )
    if loss == "cross_entropy" and not outside and bool(((outputs.sum(1) - 1).abs() < 1e-4).all()):
        return ["the network ends in a softmax, and cross_entropy takes its own: it learns from a softmax of softmaxes"]
    return []


def _check_own_loss(builder: Builder, outputs: Tensor, labels: Tensor) -> list[str]:
    """Whether a plug-in's loss of some examples is that of the same ones twice over, as a mean is.

    Returns:
        A warning where it is none: the loss of an epoch is then a mean of what it gave for each batch.

    Raises:
        UserError: if it gives no single number.
    """
    import torch

    wanted = builder.cell.training.loss
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        loss = losses.build(wanted, builder.plugins)
        once, twice = float(loss(outputs, labels)), float(loss(outputs.repeat(2, 1), labels.repeat(2)))
    if math.isclose(once, twice, rel_tol=1e-3, abs_tol=1e-6) or not math.isfinite(once + twice):
        return []
    return [
        f"the loss {wanted.name} is {once:.4g} for some examples and {twice:.4g} for the same ones twice over, so it is"
        " no mean over them: the losses shown are means of what it gave for each batch"
    ]
