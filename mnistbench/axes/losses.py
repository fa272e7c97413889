"""What is minimized: as a mean, as everybody writes it, and as a sum, so that chunks of a batch add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[..., "Tensor"]
"""(outputs, labels, reduction="mean" or "sum") -> tensor without dimensions."""


def cross_entropy(outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Of logits [n, classes] (log-probabilities do as well) and labels [n]."""
    from torch.nn import functional

    return functional.cross_entropy(outputs, labels, reduction=reduction)


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


def predictions(outputs: Tensor) -> Tensor:
    """Class of each example [n]: that of its largest output, or a single probability cut at 0.5."""
    return (outputs[:, 0] > 0.5).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def correct(outputs: Tensor, labels: Tensor) -> Tensor:
    """How many of the batch are right."""
    return predictions(outputs).eq(labels).sum()
