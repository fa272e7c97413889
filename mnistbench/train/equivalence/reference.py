"""The reference of the equivalence gate: one training step in the plainest PyTorch, on the CPU, in fp32.

It is what anyone writes: `zero_grad()`, `backward()`, `optimizer.step()`. It shares no code with the paths it judges,
on purpose: what it computes can be read here in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from mnistbench.axes import losses
from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Component
from mnistbench.data.arrays import Arrays
from mnistbench.train.machine import random_state_kept
from mnistbench.train.snapshot import load_state

Batch = tuple[Tensor, Tensor]
"""Inputs as the path's own reader gives them (bytes, or floats where it converts early), int64 labels [n]."""


class TrainingPath(Protocol):
    """One way of running the steps of a cell: what the gate compares.

    Attributes:
        model: the network, whose parameters and buffers are those that the path trains, where it trains them.
    """

    model: nn.Module

    def epoch(self, number: int, first: int | None = None) -> Iterable[Batch]:
        """The batches of an epoch (counted from 1) in the order in which it trains them, the last one partial.

        Args:
            first: only so many of them, and the last one.
        """
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state dict into the model in place, and bring the optimizer back to its beginning."""
        ...

    def gradients(self, batch: Batch) -> Sequence[Tensor | None]:
        """Gradient of the mean loss for each parameter, in the model's order, None where there is none; no update."""
        ...

    def apply(self, gradients: Sequence[Tensor | None], factor: float) -> None:
        """One optimizer step with the given gradients, each group's initial learning rate times `factor`."""
        ...

    def train_step(self, batch: Batch, factor: float) -> float:
        """One whole step; returns the mean loss before the update."""
        ...


class Reference(TrainingPath):
    """The plain path.

    Args:
        make_model: the network on the CPU, in fp32, in training mode, each time the same and nothing done to it: what a
            network counts, draws from or remembers in Python begins anew with it.
        make_optimizer: over its parameters, as it is before its first step, none of torch's faster implementations
            chosen.
        arrays: prepared data.
        order: index batches of each epoch, counted from 1.
        loss: as the cell has it.
        plugins: the modules that the command line named.
        normalize: subtract the mean of the training images and divide by their standard deviation.
        asks: how the optimizer wants to be called: `Asks` of the training.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        arrays: Arrays,
        order: Mapping[int, Sequence[Tensor]],
        *,
        loss: Component,
        plugins: Plugins | None = None,
        normalize: bool = False,
        asks: str = "step",
    ) -> None:
        self._make_model, self._make_optimizer = make_model, make_optimizer
        self._arrays = arrays
        self._order = order
        self._loss = loss
        self._own_loss = losses.build(loss, plugins) if ":" in loss.name else None
        self._normalize = normalize
        self._asks = asks
        self._begin()

    def _begin(self) -> None:
        self.model = self._make_model()
        self.optimizer = self._make_optimizer(self.model)
        self._initial = [group.get("lr") for group in self.optimizer.param_groups]
        self._factor = 1.0
        if hasattr(self.optimizer, "train"):  # schedule-free ones train and evaluate at different weights
            self.optimizer.train()

    @override
    def epoch(self, number: int, first: int | None = None) -> Iterator[Batch]:
        order = list(self._order[number])
        for indices in order if first is None else order[:first] + order[first:][-1:]:
            where = indices.numpy()
            inputs, labels = self._arrays.train_inputs[where], self._arrays.train_labels[where]
            yield torch.from_numpy(inputs), torch.from_numpy(labels)

    def steps(self, number: int) -> int:
        """How many batches an epoch has."""
        return len(self._order[number])

    @override
    def restore(self, state: Mapping[str, Tensor]) -> None:
        with random_state_kept():
            self._begin()
        load_state(self.model, state)

    @override
    def gradients(self, batch: Batch) -> list[Tensor | None]:
        self.model.zero_grad(set_to_none=True)
        self._mean_loss(batch).backward()
        return [None if each.grad is None else each.grad.clone() for each in self.model.parameters()]

    @override
    def apply(self, gradients: Sequence[Tensor | None], factor: float) -> None:
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.dtype, copy=True)
        self._update(factor)

    @override
    def train_step(self, batch: Batch, factor: float) -> float:
        losses: list[float] = []

        @torch.enable_grad()
        def closure() -> Tensor:
            # The optimizer's own, which may keep some; some that are made of others have none.
            getattr(self.optimizer, "zero_grad", self.model.zero_grad)()
            loss = self._mean_loss(batch)
            loss.backward(create_graph=self._asks == "graph of gradients")
            losses.append(loss.item())
            return loss

        if self._asks != "search":
            closure()
        self._update(factor, closure if self._asks in ("closure", "search") else None)
        return losses[0]

    def exact_gradients(self, batch: Batch) -> list[Tensor | None]:
        """The gradients in double precision, at the same weights: what fp32 rounds."""
        tensors = {name: value.data.clone() for name, value in self._tensors()}
        self.model.double()
        try:
            return self.gradients(batch)
        finally:
            self.model.zero_grad(set_to_none=True)
            for name, value in self._tensors():
                value.data = tensors[name]  # in the type it had: a plug-in's network need not be of fp32

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.model.named_parameters(), *self.model.named_buffers()]

    def as_floats(self, inputs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the network takes: pixels [n, height, width] become [n, 1, height, width] in [0, 1]."""
        if inputs.dtype != torch.uint8:
            return inputs.to(dtype, copy=True)  # a network may write into it
        pixels = inputs.unsqueeze(1).to(dtype) / 255
        spec = self._arrays.spec
        return (pixels - spec.mean) / spec.std if self._normalize else pixels

    def _update(self, factor: float, closure: Callable[[], Tensor] | None = None) -> None:
        if factor != self._factor:
            for group, initial in zip(self.optimizer.param_groups, self._initial, strict=True):
                group["lr"] = initial * factor  # type: ignore[operator]  # a group without `lr` cannot be scheduled
            self._factor = factor
        if closure is None:
            self.optimizer.step()
        else:
            self.optimizer.step(closure)  # type: ignore[arg-type]  # losses as tensors, as torch's examples return them

    def _mean_loss(self, batch: Batch) -> Tensor:
        inputs, labels = batch
        outputs = self.model(self.as_floats(inputs, next(self.model.parameters()).dtype))
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()
        if self._own_loss is not None:
            return self._own_loss(outputs, labels)
        if self._loss.name == "cross_entropy":
            return F.cross_entropy(outputs, labels, **self._loss.options)  # type: ignore[arg-type]
        if self._loss.name == "nll":
            return F.nll_loss(outputs, labels)
        if self._loss.name == "mse":
            return F.mse_loss(outputs, F.one_hot(labels, outputs.shape[1]).to(outputs.dtype))
        return F.binary_cross_entropy(outputs.squeeze(1), labels.to(outputs.dtype))


def dense(model: nn.Module, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Gradients with zeros in the place of those that are missing, and of what sparse ones leave out."""
    pairs = zip(model.parameters(), gradients, strict=True)
    return [torch.zeros_like(each) if gradient is None else gradient.to_dense() for each, gradient in pairs]
