"""The path that is timed, as the equivalence gate sees it: the same set-up, choices, warm-up, batches and steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from mnistbench.train.batches import single
from mnistbench.train.equivalence.reference import Batch, TrainingPath
from mnistbench.train.snapshot import Snapshot

if TYPE_CHECKING:
    from mnistbench.train.setup import Trainee


class TimedPath(TrainingPath):
    """Over what `setup.py` makes.

    Args:
        trainee: set up and warmed up, no step of its training taken.

    Attributes:
        together: how many whole steps one graph of it takes; 1 where there is none.
    """

    def __init__(self, trainee: Trainee) -> None:
        self.model = trainee.model
        self.model.train()
        self.together = trainee.batches.together if trainee.update.fits_graph else 1
        self._trainee = trainee
        self._snapshot = Snapshot(self.model)

    @override
    def epoch(self, number: int, first: int | None = None) -> Iterable[Batch]:
        batches = self._trainee.batches
        if first is not None:
            return batches.part_of_epoch(number, first)
        return single(batches.epoch(number), batches.batch_size)

    @override
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """In place, since captured graphs and flat weights hold addresses."""
        self._snapshot.restore()
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(state[name])
        self._trainee.update.renew()

    @override
    def gradients(self, batch: Batch) -> list[Tensor | None]:
        self._trainee.step.gradients(*batch)
        kept = self._trainee.update.gradients
        return [None if gradient is None else gradient.detach().clone() for gradient in kept]

    @override
    def apply(self, gradients: Sequence[Tensor | None], factor: float) -> None:
        # Fused kernels walk weights and gradients by memory: layouts have to agree, as they do after a backward pass.
        self._trainee.update.gradients = [
            None if gradient is None else torch.empty_like(parameter).copy_(gradient)
            for parameter, gradient in zip(self.model.parameters(), gradients, strict=True)
        ]
        self._trainee.update(factor)

    @override
    def train_step(self, batch: Batch, factor: float) -> float:
        return self.train_steps([batch], [factor])[0]

    def train_steps(self, batches: Sequence[Batch], factors: Sequence[float]) -> list[float]:
        """Steps that a graph replays together; mean losses of each."""
        inputs, labels = (torch.cat(each) for each in zip(*batches, strict=True))
        losses, _ = self._trainee.take_steps(inputs, labels, factors)
        return losses.reshape(-1).tolist()
