"""The loop that anyone writes. It knows nothing of the tool: it gets a network with its weights, and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Loss = Callable[..., Tensor]
StepFunction = Callable[[nn.Module, Any, Loss, Batch], Tensor]


def train(
    model: nn.Module,
    optimizer: Any,
    epochs: Sequence[Sequence[Batch]],
    take_step: StepFunction,
    loss: Loss = F.cross_entropy,
    factors: Sequence[float] = (),
) -> list[float]:
    """Train, and return the mean loss of each epoch; `factors` multiply each group's own rate, step for step."""
    losses = []
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [*factors, 0.0].__getitem__) if factors else None
    for batches in epochs:
        model.train()
        getattr(optimizer, "train", lambda: None)()  # schedule-free optimizers keep two sets of weights
        total, examples = 0.0, 0
        for inputs, labels in batches:
            total += take_step(model, optimizer, loss, (inputs, labels)).item() * len(labels)
            examples += len(labels)
            if schedule:
                schedule.step()
        getattr(optimizer, "eval", lambda: None)()
        losses.append(total / examples)
    return losses


def usual_step(model: nn.Module, optimizer: Any, loss: Loss, batch: Batch, *, create_graph: bool = False) -> Tensor:
    """`zero_grad`, forward, `backward`, `step`; returns the mean loss before the update."""
    inputs, labels = batch
    optimizer.zero_grad()
    value = loss(model(inputs), labels)
    value.backward(create_graph=create_graph)
    optimizer.step()
    return value


def second_order_step(model: nn.Module, optimizer: Any, loss: Loss, batch: Batch) -> Tensor:
    """As AdaHessian wants it."""
    return usual_step(model, optimizer, loss, batch, create_graph=True)


def searching_step(model: nn.Module, optimizer: Any, loss: Loss, batch: Batch) -> Tensor:
    """As LBFGS wants it: the optimizer computes loss and gradients as often as it likes."""
    inputs, labels = batch
    seen: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model(inputs), labels)
        value.backward()
        seen.append(value)
        return value

    optimizer.step(closure)
    return seen[0]


def two_sided_step(model: nn.Module, optimizer: Any, loss: Loss, batch: Batch) -> Tensor:
    """As SAM wants it: gradients here, then those at the point to which the optimizer climbs."""
    inputs, labels = batch

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model(inputs), labels)
        value.backward()
        return value

    value = closure()
    optimizer.step(closure)
    return value
