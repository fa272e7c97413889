"""Trains one case by the tool and by the bare loop, and holds their losses against each other.

The loop is given three things, as tensors: the initial weights, the batches in their order, and the state of torch's
generator at the first step, for networks that draw in training.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bare_loop
import numpy as np
import outside_networks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnistbench.axes import architectures
from mnistbench.axes.plugins import load_plugins
from mnistbench.axes.schedules import lr_factors
from mnistbench.cell import Cell, Component, Training
from mnistbench.data import arrays, datasets
from mnistbench.results.records import CellRecord, Data
from mnistbench.train.job import Job
from mnistbench.train.machine import derived_seed, order_of_examples, seed_everything
from mnistbench.train.train import train_cell

HERE = Path(__file__).parent
PLUGINS = tuple(str(HERE / f"outside_{axis}.py") for axis in ("data", "networks", "optimizers"))
TOLERANCE = 1e-4
"""Of a loss of `fast`, relative; or `ULPS` times what one unit in the last place of the weights does to the loop."""
ULPS = 10
NUDGES = 3
SEED = 0


def _bce(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy(outputs[:, 0], labels.float())


def _mse(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(outputs, F.one_hot(labels, outputs.shape[1]).float())


LOSSES: dict[str, bare_loop.Loss] = {"cross_entropy": F.cross_entropy, "bce": _bce, "mse": _mse}


@dataclass(frozen=True)
class Case:
    """One network with one optimizer.

    Attributes:
        network: a function of `outside_networks.py`.
        optimizer: `module:Class`, or a name of the tool's own.
        lr, options: of the optimizer.
        loop_optimizer: what the loop takes where `optimizer` is a name of the tool's own.
        take_step: as this optimizer wants to be called.
        data: the dataset plug-in's function, with its options.
        loss: a name of the tool's own, or `module:Name`, with its options.
        losses: so many of the first losses are compared; an optimizer that searches has its first step looked at.
        threads: of tool and loop.
        levers: set beside the profile.
        schedule: of the learning rate, by its name.
        is_large: trained on fewer examples.
    """

    network: str
    optimizer: str
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    loop_optimizer: str = ""
    take_step: bare_loop.StepFunction = bare_loop.usual_step
    data: Mapping[str, Any] = field(default_factory=lambda: {"name": "outside_data:first_digits"})
    loss: str = "cross_entropy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    losses: int = 5
    threads: int = 1
    levers: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "constant"
    is_large: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """What the command line would name."""
        named = [name.partition(":")[0] for name in (self.optimizer, self.loss) if ":" in name]
        return (*PLUGINS, *(module for module in named if module != "outside_optimizers"))


@dataclass(frozen=True)
class Deal:
    """How the examples are dealt out."""

    epochs: int
    batch_size: int
    examples: int
    shuffle: bool


SEVERAL_STEPS = Deal(epochs=3, batch_size=60, examples=200, shuffle=True)
"""Three epochs of four steps, the last of 20 examples."""
ONE_STEP = Deal(epochs=5, batch_size=96, examples=96, shuffle=False)
"""Five epochs of one step: the tool reports a loss for each step then."""


@dataclass(frozen=True)
class Agreement:
    """The losses of tool and loop.

    Attributes:
        tool, loop: the mean loss of each epoch.
        allowed: relative difference for each, where bits may differ.
        gate: what the tool's own gate says.
    """

    tool: list[float]
    loop: list[float]
    allowed: list[float]
    gate: str

    @property
    def equal(self) -> bool:
        """To the last bit."""
        return self.tool == self.loop

    @property
    def errors(self) -> list[float]:
        """Relative differences."""
        return _errors(self.tool, self.loop)

    @property
    def within(self) -> bool:
        """Whether every difference is allowed."""
        return len(self.tool) == len(self.loop) and all(
            error <= most for error, most in zip(self.errors, self.allowed, strict=True)
        )


def compare(case: Case, profile: str, deal: Deal) -> Agreement:
    """Train by both, the examples dealt out as `deal` says, or fewer of them where the case asks for it.

    Raises:
        UserError, or what the tool raises: if it refuses the case.
    """
    deal = deal_for(case, deal)
    prepared = datasets.prepare(Component(name=case.data["name"], options=_sizes(case, deal)), plugins=_plugins(case))
    record = _tool(case, profile, deal, prepared)
    loop = _loop(case, deal, prepared)
    if profile == "plain":
        allowed = [0.0] * len(loop)
    else:
        nudged = [_errors(_loop(case, deal, prepared, nudge=number), loop) for number in range(1, NUDGES + 1)]
        allowed = [max(TOLERANCE, ULPS * max(errors)) for errors in zip(*nudged, strict=True)]
    assert record.status == "finished", record.error
    tool = [epoch.train_loss for epoch in record.epochs]
    return Agreement(tool, loop, allowed, record.checks["equivalence"])  # type: ignore[arg-type]


def deal_for(case: Case, deal: Deal) -> Deal:
    """An optimizer that searches is looked at for its first step: two losses, of one step each."""
    if case.losses < ONE_STEP.epochs:
        return replace(ONE_STEP, epochs=case.losses)
    if case.is_large:
        return replace(deal, examples=deal.examples // 5, batch_size=15 if deal.shuffle else deal.examples // 5)
    return deal


def _errors(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(one, other, strict=True)]


def _plugins(case: Case) -> Any:
    return load_plugins(case.modules)


def _sizes(case: Case, deal: Deal) -> dict[str, Any]:
    return {"train": deal.examples, **{key: value for key, value in case.data.items() if key != "name"}}


def _tool(case: Case, profile: str, deal: Deal, prepared: datasets.PreparedData) -> CellRecord:
    cell = Cell(
        dataset=prepared.component,
        architecture=Component(name=f"outside_networks:{case.network}"),
        optimizer=Component(name=case.optimizer, options={"lr": case.lr, **case.options}),
        batch_size=deal.batch_size,
        schedule=Component(name=case.schedule),
        device="cpu",
        seed=SEED,
        training=Training(
            epochs=deal.epochs, loss=Component(name=case.loss, options=case.loss_options), shuffle=deal.shuffle
        ),
        execution=Component(name=profile, options={"threads": case.threads, **case.levers}),
    )
    job = Job(
        cell=cell,
        record_id="outside",
        data_directory=str(prepared.directory),
        data=Data(sha256=prepared.sha256),
        plugins=case.modules,
    )
    return train_cell(job, on_epoch=lambda epoch: None, process_started=time.perf_counter())


def _loop(case: Case, deal: Deal, prepared: datasets.PreparedData, nudge: int = 0) -> list[float]:
    weights, epochs = _initial_weights(case, prepared), _batches(deal, prepared)
    torch.set_num_threads(case.threads)
    seed_everything(12345)  # the loop's own network is another one, until it gets the weights
    model = getattr(outside_networks, case.network)()
    model.load_state_dict(_nudged(weights, nudge) if nudge else weights)
    optimizer = _loop_optimizer(case, model)
    seed_everything(derived_seed(SEED, "training"))
    steps = sum(map(len, epochs))
    factors = [] if case.schedule == "constant" else lr_factors(Component(name=case.schedule), steps)
    return bare_loop.train(model, optimizer, epochs, case.take_step, _loop_loss(case), factors)


def _loop_loss(case: Case) -> bare_loop.Loss:
    module, colon, attribute = case.loss.partition(":")
    if not colon:
        return LOSSES[case.loss]
    there = getattr(importlib.import_module(module), attribute)
    loss: bare_loop.Loss = (
        there(**case.loss_options) if inspect.isclass(there) else functools.partial(there, **case.loss_options)
    )
    return loss


def _loop_optimizer(case: Case, model: nn.Module) -> Any:
    module, _, attribute = (case.loop_optimizer or case.optimizer).partition(":")
    function = getattr(importlib.import_module(module), attribute)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    given: dict[str, Any] = {"named_parameters": named, "model": model}
    first = next(iter(inspect.signature(function).parameters))
    return function(given.get(first, [parameter for _, parameter in named]), lr=case.lr, **case.options)


def _initial_weights(case: Case, prepared: datasets.PreparedData) -> dict[str, Tensor]:
    """As a seed gives them; layers that take their shape from a batch have seen one of zeros."""
    seed_everything(SEED)
    component = Component(name=f"outside_networks:{case.network}")
    model = architectures.build(component, prepared.spec, _plugins(case)).eval()
    if any(isinstance(each, nn.parameter.UninitializedTensorMixin) for each in model.parameters()):
        model(torch.zeros(2, *prepared.spec.input_shape))
    return copy.deepcopy(model.state_dict())


def _batches(deal: Deal, prepared: datasets.PreparedData) -> list[list[bare_loop.Batch]]:
    data = arrays.load(prepared.directory)
    inputs = torch.from_numpy(np.array(data.train_inputs)).float().div(255).unsqueeze(1)
    labels = torch.from_numpy(np.array(data.train_labels))
    orders = [
        order_of_examples(deal.examples, SEED, number, shuffle=deal.shuffle) for number in range(1, deal.epochs + 1)
    ]
    return [[(inputs[chosen], labels[chosen]) for chosen in order.split(deal.batch_size)] for order in orders]


def _nudged(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Every number one unit in the last place up or down."""
    generator = torch.Generator().manual_seed(seed)

    def nudged(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        up = torch.randint(0, 2, tensor.shape, generator=generator).bool()
        infinite = torch.full_like(tensor, torch.inf)
        return torch.nextafter(tensor, torch.where(up, infinite, -infinite))

    return {name: nudged(tensor) for name, tensor in weights.items()}
