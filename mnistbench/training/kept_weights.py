"""Weights that `training.save_model` asks for, written into the folder that the parent gave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.data import arrays
from mnistbench.records import EpochMeasurement

if TYPE_CHECKING:
    from mnistbench.training.trainee import Trainee
    from mnistbench.worker import Job


class KeptWeights:
    """Writes the weights that `save_model` asks for into the folder that the parent gave."""

    def __init__(self, job: Job, trainee: Trainee) -> None:
        self._job, self._trainee = job, trainee
        self._which = job.cell.training.save_model if job.weights_directory else None
        self._best = -1.0
        self.names: list[str] = []

    def after(self, epoch: EpochMeasurement) -> None:
        """Keep the weights of this epoch, if they are wanted. `best` is by validation where there is some.

        Never called for an epoch that diverged: weights that are no numbers are not kept.
        """
        if self._which == "all":
            self._save(f"{self._job.cell.cell_id}.epoch{epoch.epoch}")
        if self._which == "best":
            seen = epoch.test_accuracy if epoch.validation_accuracy is None else epoch.validation_accuracy
            if seen is not None and seen > self._best:
                self._best = seen
                self._save(self._job.cell.cell_id)

    def finish(self) -> None:
        """Keep the last weights, if they are wanted."""
        if self._which in ("last", "all"):
            self._save(self._job.cell.cell_id)

    def _save(self, name: str) -> None:
        from mnistbench.models import save_model

        spec = arrays.load(Path(self._job.data_directory)).spec
        assert self._job.weights_directory is not None
        save_model(self._trainee.model, self._job.cell, spec, Path(self._job.weights_directory) / f"{name}.safetensors")
        if f"{name}.safetensors" not in self.names:
            self.names.append(f"{name}.safetensors")
