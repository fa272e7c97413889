"""The path that is timed, as the equivalence gate sees it: the same set-up, choices, warm-up, batches and steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mnistbench.gate.reference import Batch, trainable

if TYPE_CHECKING:
    from mnistbench.training.trainee import Trainee


class TimedPath:
    """A `TrainingPath` over what `trainee.py` makes.

    Args:
        trainee: set up and warmed up, no step of its training taken.
    """

    def __init__(self, trainee: Trainee) -> None:
        self.model = trainee.model
        self.model.train()
        self._trainee = trainee

    def epoch(self, number: int) -> Iterable[Batch]:
        """As `TrainingPath`."""
        return self._trainee.batches.epoch(number)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """As `TrainingPath`: in place, since captured graphs and flat weights hold addresses."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(state[name])
        self._trainee.update.forget()

    def gradients(self, batch: Batch) -> list[Tensor]:
        """As `TrainingPath`."""
        self._trainee.step.gradients(*batch)
        return [gradient.detach().clone() for gradient in self._trainee.step.kept_gradients()]

    def apply(self, gradients: Sequence[Tensor], lr: float) -> None:
        """As `TrainingPath`."""
        # Fused kernels walk weights and gradients by memory: layouts have to agree, as they do after a backward pass.
        self._trainee.update.gradients = [
            torch.empty_like(parameter).copy_(gradient)
            for parameter, gradient in zip(trainable(self.model), gradients, strict=True)
        ]
        self._trainee.step.update(lr)

    def train_step(self, batch: Batch, lr: float) -> float:
        """As `TrainingPath`."""
        loss, _ = self._trainee.step.gradients(*batch)
        mean = float(loss) / len(batch[1])
        self._trainee.step.update(lr)
        return mean
