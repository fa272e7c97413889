"""What is minimized: as a mean, as everybody writes it, and as a sum, so that chunks of a batch add up."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mnistbench.axes.options import Fraction, as_declared
from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Component
from mnistbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Loss = Callable[..., "Tensor"]
"""(outputs, labels, reduction="mean" or "sum") -> tensor without dimensions."""


def cross_entropy(
    outputs: Tensor, labels: Tensor, reduction: str = "mean", *, label_smoothing: Fraction = 0.0
) -> Tensor:
    """Of logits [n, classes] (log-probabilities do as well) and labels [n].

    Args:
        label_smoothing: share of each label that is spread over all classes (Szegedy et al. 2015, arXiv:1512.00567).
    """
    from torch.nn import functional

    return functional.cross_entropy(outputs, labels, reduction=reduction, label_smoothing=label_smoothing)


def nll(outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood, of log-probabilities [n, classes] and labels [n]."""
    from torch.nn import functional

    return functional.nll_loss(outputs, labels, reduction=reduction)


def mse(outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Squared error to the one-hot label, mean over the outputs of each example."""
    from torch.nn import functional

    wanted = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    loss = functional.mse_loss(outputs, wanted, reduction=reduction)
    return loss / outputs.shape[1] if reduction == "sum" else loss


def bce(outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy, of probabilities [n, 1] and 0/1 labels [n]."""
    from torch.nn import functional

    return functional.binary_cross_entropy(outputs[:, 0], labels.to(outputs.dtype), reduction=reduction)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "nll": nll,
    "mse": mse,
    "bce": bce,
}


def build(component: Component, plugins: Plugins | None = None, device: torch.device | None = None) -> Loss:
    """Make the loss that a cell names.

    A plug-in's is called with outputs and labels and gives the loss of a batch. A class is made with the options first;
    a function takes them with each call. Of several batches the loss is their mean, each weighing by its examples.

    Args:
        component: a name from `LOSSES` or a plug-in's `module:Name`, with its options.
        plugins: the modules that the command line named.
        device: where tensors that it holds must lie.

    Raises:
        UserError: if the name is unknown, or the loss has parameters of its own, which no optimizer would train.
    """
    if ":" not in component.name:
        if component.name not in LOSSES:
            raise UserError(f"unknown loss {component.name!r}; there are {', '.join(LOSSES)}")
        loss = LOSSES[component.name]
        return functools.partial(loss, **component.options) if component.options else loss
    from torch import nn

    called: Any = (plugins or Plugins()).find(component.name)
    options = as_declared(called, component.options)
    if inspect.isclass(called):
        called, options = called(**options), {}
    if isinstance(called, nn.Module):
        called = copy.deepcopy(called).to(device)  # the plug-in's own, made once, serves other devices too
        if trained := [name for name, each in called.named_parameters() if each.requires_grad]:
            raise UserError(f"the loss {component.name} has a parameter `{trained[0]}`, which no optimizer would train")
    return functools.partial(_own, component.name, functools.partial(called, **options))


def _own(name: str, called: Callable[..., Any], outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    import torch

    loss = called(outputs, labels)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        shape = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise UserError(f"the loss {name} gives {shape} for a batch; a tensor of one number is needed: return its mean")
    return loss.reshape(()) if reduction == "mean" else loss.reshape(()) * len(labels)


def predictions(outputs: Tensor) -> Tensor:
    """Class of each example [n]: that of its largest output, or a single probability cut at 0.5."""
    return (outputs[:, 0] > 0.5).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def correct(outputs: Tensor, labels: Tensor) -> Tensor:
    """How many of the batch are right."""
    return predictions(outputs).eq(labels).sum()
