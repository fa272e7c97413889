"""What is minimized, as sums over examples: chunks of a batch then add up to the batch, whatever their sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of logits [n, classes] (log-probabilities do as well) and labels [n]."""
    from torch.nn import functional

    return functional.cross_entropy(outputs, labels, reduction="sum")


def nll(outputs: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood, of log-probabilities [n, classes] and labels [n]."""
    from torch.nn import functional

    return functional.nll_loss(outputs, labels, reduction="sum")


def mse(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared error to the one-hot label, mean over the outputs of each example."""
    from torch.nn import functional

    wanted = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return functional.mse_loss(outputs, wanted, reduction="sum") / outputs.shape[1]


def bce(outputs: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, of probabilities [n, 1] and 0/1 labels [n]."""
    from torch.nn import functional

    return functional.binary_cross_entropy(outputs[:, 0].float(), labels.to(outputs.device).float(), reduction="sum")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
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
