"""What a network reaches, and what an example costs it: off the training clock."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnistbench.axes.losses import LOSSES, predictions
from mnistbench.files.remembered import remembered
from mnistbench.train.setup import Trainee
from mnistbench.train.warmup import network_key

if TYPE_CHECKING:
    from torch import Tensor

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Score:
    """What a network reaches on one part of the data.

    Attributes:
        loss: mean over the examples, None if it is not finite.
        accuracy: share of right answers; outputs that are not finite are none.
        confusion: rows are true classes, columns predicted ones, of the examples whose outputs are finite.
    """

    loss: float | None
    accuracy: float
    confusion: list[list[int]]


def evaluate(trainee: Trainee, stored: Tensor, labels: Tensor) -> Score:
    """Evaluate in evaluation mode, in batches of a size that does not depend on the cell's.

    The caller has called `trainee.update.eval()`, for optimizers that evaluate at other weights than they train.
    """
    import torch

    trainee.model.eval()
    loss, predicted, finite = 0.0, [], []
    with torch.no_grad():
        for some, wanted in zip(stored.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            outputs = trainee.model(trainee.inputs(some)).float()
            loss += _sum_of_losses(trainee, outputs, wanted)
            predicted.append(predictions(outputs))
            finite.append(outputs.isfinite().all(1))
        classes = max(outputs.shape[1], 2)
        cells = (labels * classes + torch.cat(predicted))[torch.cat(finite)]
        counts = torch.bincount(cells, minlength=classes * classes)
    mean, table = loss / len(labels), counts.view(classes, classes)
    return Score(mean if math.isfinite(mean) else None, int(table.trace()) / len(labels), table.tolist())


def _sum_of_losses(trainee: Trainee, outputs: Tensor, labels: Tensor) -> float:
    if trainee.loss is LOSSES["bce"] and not bool(outputs.isfinite().all()):
        return math.nan  # torch refuses to compute it
    return float(trainee.loss(outputs, labels, "sum"))


def is_finite(trainee: Trainee) -> bool:
    """Whether all weights and floating-point buffers are numbers."""
    tensors = [*trainee.model.parameters(), *trainee.model.buffers()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


def flops_per_example(trainee: Trainee) -> float | None:
    """Forward and backward of one example by torch's own counter; None where it cannot count all of it."""
    import torch

    question = {"flops": network_key(trainee), "torch": torch.__version__}
    try:
        flops: float | None = remembered(question, lambda: {"flops": _counted_flops(trainee)})["flops"]
    except Exception:  # a plug-in's layer that the counter does not know; another release may, so it is asked again
        return None
    return flops


COUNTED_EXAMPLES = 4


def _counted_flops(trainee: Trainee) -> float | None:
    """On a network of its own: a forward in training mode leaves traces, as in BatchNorm's statistics."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    levers = dataclasses.replace(trainee.levers, step="autograd", compile=False, graph=False, kernels=None)
    fresh = trainee.anew(levers=levers)
    fresh.model.train()
    counted: set[int] = set()

    class Seen(TorchDispatchMode):
        """Which tensors enter an operation whose FLOPs are known."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func._overloadpacket in flop_registry:
                tensors = [each for each in args if isinstance(each, torch.Tensor)]
                counted.update(tensor.untyped_storage().data_ptr() for tensor in tensors)
            return func(*args, **(kwargs or {}))

    stored, labels = trainee.test[0][:COUNTED_EXAMPLES], trainee.test[1][:COUNTED_EXAMPLES]
    counter = FlopCounterMode(display=False)
    seen = Seen()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]), seen, counter, torch.enable_grad():
        outputs = fresh.model(fresh.inputs(stored))
        fresh.loss(outputs.float(), labels).backward()
    # Recurrent kernels, for one, have no formula: what no formula has seen is not part of the sum. Of complex numbers
    # the counter takes each product for one of real numbers.
    matrices = [each for each in fresh.model.parameters() if each.dim() > 1]
    if any(each.is_complex() for each in matrices) or any(
        matrix.untyped_storage().data_ptr() not in counted for matrix in matrices
    ):
        return None
    flops: float = counter.get_total_flops() / len(labels)
    return flops
