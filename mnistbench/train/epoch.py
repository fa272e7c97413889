"""The loop of an epoch. The training clock runs around it, and warm-up goes through the very same lines before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

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
        batches: on the device, at most as many as there are factors.
        factors: of the learning rates at each step.

    Returns:
        Mean loss and number of right answers per step (on the device), examples, steps.
    """
    import torch

    losses = torch.zeros(len(factors), device=trainee.device)
    rights = torch.zeros(len(factors), dtype=torch.int64, device=trainee.device)
    look_every = DIVERGENCE_CHECK.get(trainee.device.type, 500)
    examples, steps = 0, 0
    for inputs, labels in batches:
        loss, right = trainee.take_step(inputs, labels, factors[steps])
        losses[steps] = loss
        rights[steps] = right
        examples += len(labels)
        steps += 1
        if steps % look_every == 0 and not math.isfinite(losses[steps - 1].item()):
            break
    return losses, rights, examples, steps
