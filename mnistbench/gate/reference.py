"""The reference of the equivalence gate: one training step in the plainest PyTorch, on the CPU, in fp32.

It shares no code with the paths it judges, on purpose: what it computes can be read here in one go.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnistbench.cell import Loss
from mnistbench.data.arrays import Arrays

Batch = tuple[Tensor, Tensor]
"""Inputs as the path's own reader gives them (bytes, or floats where it converts early), int64 labels [n]."""


class TrainingPath(Protocol):
    """One way of running the steps of a cell: what the gate compares.

    Attributes:
        model: the network, whose parameters and buffers are those that the path trains, where it trains them.
    """

    model: nn.Module

    def epoch(self, number: int) -> Iterable[Batch]:
        """The batches of an epoch (counted from 1) in the order in which it trains them, the last one partial."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state dict into the model in place, and bring the optimizer's state back to its beginning."""
        ...

    def gradients(self, batch: Batch) -> Sequence[Tensor]:
        """Gradient of the mean loss for each trainable parameter, in the model's order; no update."""
        ...

    def apply(self, gradients: Sequence[Tensor], lr: float) -> None:
        """One optimizer step with the given gradients."""
        ...

    def train_step(self, batch: Batch, lr: float) -> float:
        """One whole step; returns the mean loss before the update."""
        ...


class Reference:
    """The plain path.

    Args:
        model: on the CPU, in fp32, in training mode.
        optimizer: over the model's trainable parameters, none of torch's faster implementations chosen.
        arrays: prepared data.
        order: index batches of each epoch, counted from 1.
        loss: name of the loss.
        normalize: subtract the mean of the training images and divide by their standard deviation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        arrays: Arrays,
        order: Mapping[int, Sequence[Tensor]],
        *,
        loss: Loss,
        normalize: bool = False,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self._arrays = arrays
        self._order = order
        self._loss = loss
        self._normalize = normalize
        self._fresh_optimizer = copy.deepcopy(optimizer.state_dict())  # AdaGrad has its sums from the start

    def epoch(self, number: int) -> Iterator[Batch]:
        """As `TrainingPath`."""
        for indices in self._order[number]:
            where = indices.numpy()
            inputs, labels = self._arrays.train_inputs[where], self._arrays.train_labels[where]
            yield torch.from_numpy(inputs), torch.from_numpy(labels)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """As `TrainingPath`."""
        self.model.load_state_dict(dict(state))
        self.optimizer.load_state_dict(copy.deepcopy(self._fresh_optimizer))

    def gradients(self, batch: Batch) -> list[Tensor]:
        """As `TrainingPath`."""
        self.model.zero_grad(set_to_none=True)
        self._mean_loss(batch).backward()
        return [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for parameter in trainable(self.model)
        ]

    def apply(self, gradients: Sequence[Tensor], lr: float) -> None:
        """As `TrainingPath`."""
        for parameter, gradient in zip(trainable(self.model), gradients, strict=True):
            parameter.grad = gradient.clone()
        self._update(lr)

    def train_step(self, batch: Batch, lr: float) -> float:
        """As `TrainingPath`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._mean_loss(batch)
        loss.backward()
        self._update(lr)
        return loss.item()

    def exact_gradients(self, batch: Batch) -> list[Tensor]:
        """The gradients in double precision, at the same weights: what fp32 rounds."""
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.double()
        try:
            return self.gradients(batch)
        finally:
            self.model.zero_grad(set_to_none=True)
            self.model.float()
            self.model.load_state_dict(state)

    def as_floats(self, inputs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the network takes: pixels [n, height, width] become [n, 1, height, width] in [0, 1]."""
        if inputs.dtype != torch.uint8:
            return inputs.to(dtype)
        pixels = inputs.unsqueeze(1).to(dtype) / 255
        spec = self._arrays.spec
        return (pixels - spec.mean) / spec.std if self._normalize else pixels

    def _update(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def _mean_loss(self, batch: Batch) -> Tensor:
        inputs, labels = batch
        outputs = self.model(self.as_floats(inputs, next(self.model.parameters()).dtype))
        if self._loss == "cross_entropy":
            return F.cross_entropy(outputs, labels)
        if self._loss == "nll":
            return F.nll_loss(outputs, labels)
        if self._loss == "mse":
            return F.mse_loss(outputs, F.one_hot(labels, outputs.shape[1]).to(outputs.dtype))
        return F.binary_cross_entropy(outputs.squeeze(1), labels.to(outputs.dtype))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
