"""The path that is timed, as the equivalence gate sees it: the same set-up, choices, warm-up, batches and steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from mnistbench.train.batches import single
from mnistbench.train.equivalence.reference import Batch, TrainingPath
from mnistbench.train.machine import random_state_kept
from mnistbench.train.snapshot import Snapshot, load_state
from mnistbench.train.steps.cuda_graph import GraphStep

if TYPE_CHECKING:
    from mnistbench.train.setup import Prepare, Trainee


class TimedPath(TrainingPath):
    """Over what `setup.py` makes.

    Args:
        trainee: set up and warmed up, no step of its training taken.
        prepare: what was called on its network when it was made.

    Attributes:
        together: how many whole steps one graph of it takes; 1 where there is none.
    """

    def __init__(self, trainee: Trainee, prepare: Prepare) -> None:
        self.model = trainee.model
        self.model.train()
        self.together = trainee.batches.together if trainee.update.fits_graph else 1
        self._trainee, self._prepare = trainee, prepare
        self._snapshot = Snapshot(self.model)
        cell = trainee.builder.cell
        is_bound = trainee.levers.compile or isinstance(trainee.step, GraphStep)  # to the addresses of its tensors
        self._is_made_anew = not is_bound and ":" in cell.architecture.name + cell.optimizer.name

    @override
    def epoch(self, number: int, first: int | None = None) -> Iterable[Batch]:
        batches = self._trainee.batches
        if first is not None:
            return batches.part_of_epoch(number, first)
        return single(batches.epoch(number), batches.batch_size)

    @override
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Other people's networks and optimizers are made anew: who knows where they keep what.

        Ours, and what is bound to addresses, get their values back in place.
        """
        if self._is_made_anew:
            with random_state_kept():
                self._trainee = self._trainee.anew(prepare=self._prepare)
            self.model = self._trainee.model
            self.model.train()
        else:
            self._snapshot.restore()
            self._trainee.update.renew()
        load_state(self.model, state)

    @override
    def gradients(self, batch: Batch) -> list[Tensor | None]:
        inputs, labels = batch
        self._trainee.step.gradients(inputs.clone(), labels)  # a network may write into them
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
