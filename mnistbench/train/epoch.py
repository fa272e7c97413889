"""The loop of an epoch. The training clock runs around it, and warm-up goes through the very same lines before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mnistbench.train.batches import single

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.train.setup import Trainee

DIVERGENCE_CHECK = {"cpu": 50}
"""Steps between looks at the loss; on other devices a look waits for the device, so it is rarer."""


def take_steps(
    trainee: Trainee, batches: Iterable[tuple[Tensor, Tensor]], factors: Sequence[float]
) -> tuple[Tensor, Tensor, int, int]:
    """Train on these batches, until the loss is found not to be finite.

    Args:
        batches: on the device, one at a time or several together; at most as many as there are factors.
        factors: of the learning rates at each step.

    Returns:
        Mean loss and number of right answers per step (on the device), examples, steps.
    """
    import torch

    losses = torch.zeros(len(factors), device=trainee.device)
    rights = torch.zeros(len(factors), dtype=torch.int64, device=trainee.device)
    look_every = DIVERGENCE_CHECK.get(trainee.device.type, 500)
    examples, steps, looked = 0, 0, 0
    for inputs, labels in together(batches, trainee):
        until = steps + math.ceil(len(labels) / trainee.batches.batch_size)
        loss, right = trainee.take_steps(inputs, labels, factors[steps:until])
        losses[steps:until] = loss
        rights[steps:until] = right
        examples += len(labels)
        steps = until
        if steps - looked >= look_every:
            looked = steps
            if not math.isfinite(losses[steps - 1].item()):
                break
    return losses, rights, examples, steps


def together(batches: Iterable[tuple[Tensor, Tensor]], trainee: Trainee) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches that come together are parted where no graph takes them so."""
    if trainee.update.fits_graph or trainee.batches.together == 1:
        return batches
    return single(batches, trainee.batches.batch_size)
