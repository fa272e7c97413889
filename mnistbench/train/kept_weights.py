"""Weights that `training.save_model` asks for, written into the folder that the parent gave, and loaded back."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.data import arrays
from mnistbench.results.records import EpochMeasurement
from mnistbench.train.machine import random_state_kept
from mnistbench.train.pictures import Framing, measured_framing
from mnistbench.train.weights import KeptModel, ModelSettings, NotSavable, kind_of_outputs, read_model, save_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mnistbench.train.job import Job
    from mnistbench.train.setup import Trainee

COMPARED = 64
"""Test examples on which a model that was loaded back is compared with the one in memory."""
CHECK = "kept_model"
"""The key in a record's `checks` that says whether the kept weights were found to be the whole model."""


class KeptWeights:
    """Writes the weights that `save_model` asks for into the folder that the parent gave.

    Attributes:
        names: of the files, relative to that folder.
        checks: what a record says of them, under `CHECK`; empty where none are asked for.
    """

    def __init__(self, job: Job, trainee: Trainee) -> None:
        self._job, self._trainee = job, trainee
        self._which = job.cell.training.save_model if job.weights_directory else None
        self._best = -1.0
        self._outputs: dict[str, Tensor | None] = {}
        self.names: list[str] = []
        self.checks: dict[str, str] = {}

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

    def finish(self, *, diverged: bool = False) -> None:
        """Keep the last weights, if they are wanted; then load all back, now that nothing is left to be disturbed."""
        if self._which in ("last", "all") and not diverged:
            self._save(self._job.cell.cell_id)
        for name in list(self.names):
            self._load_back(name)
        if self._which and diverged and not self.names:
            self.checks[CHECK] = "not kept: the training diverged"

    @cached_property
    def _data(self) -> arrays.Arrays:
        return arrays.load(Path(self._job.data_directory))

    @cached_property
    def _framing(self) -> Framing:
        return measured_framing(self._data.train_inputs) if self._data.spec.is_image else Framing()

    def _path(self, name: str) -> Path:
        assert self._job.weights_directory is not None
        return Path(self._job.weights_directory) / name

    def _save(self, cell_and_epoch: str) -> None:
        name, cell = f"{cell_and_epoch}.safetensors", self._job.cell
        outputs = self._outputs_in_memory()
        try:
            save_model(
                self._trainee.model,
                cell,
                self._data.spec,
                self._path(name),
                outputs=kind_of_outputs(cell.training.loss.name, outputs),
                framing=self._framing,
            )
        except NotSavable as error:
            self._drop(name, str(error))
            return
        self._outputs[name] = outputs
        if name not in self.names:
            self.names.append(name)

    def _outputs_in_memory(self) -> Tensor | None:
        """Of a copy, on the CPU, so that the network that goes on training does not notice; None if it has no copy."""
        settings = ModelSettings(cell=self._job.cell, spec=self._data.spec, outputs="logits", framing=self._framing)
        try:
            with random_state_kept():
                network = _copied_to_cpu(self._trainee.model)
                network.eval()  # a network's own `eval` need not return it
                twin = KeptModel(network=network, settings=settings)
                outputs = twin.outputs_of(self._data.test_inputs[:COMPARED])
                again = twin.outputs_of(self._data.test_inputs[:COMPARED])
        except Exception:  # whatever a plug-in's network cannot do
            return None
        return outputs if _are_close(outputs, again) else None

    def _load_back(self, name: str) -> None:
        """Compare what the file gives with what was in memory when it was written; a file that lacks a part goes."""
        expected = self._outputs[name]
        try:
            with random_state_kept():
                loaded = read_model(self._path(name), plugins=self._job.plugins)
                outputs = loaded.outputs_of(self._data.test_inputs[:COMPARED])
        except Exception as error:  # a constructor of a plug-in may raise anything
            self._drop(name, f"it cannot be loaded back: {str(error).splitlines()[0] if str(error) else error!r}")
            return
        if expected is None:
            self.checks.setdefault(CHECK, "not compared: it cannot be copied, or answers differently each time")
        elif _are_close(outputs, expected):
            self.checks.setdefault(CHECK, "passed")
        else:
            self._drop(
                name,
                f"loaded back, it answers {len(expected)} test examples differently: a part of it is not in its"
                " state_dict, such as layers in a plain list (torch.nn.ModuleList keeps them) or a tensor that is no"
                " buffer (register_buffer)",
            )

    def _drop(self, name: str, reason: str) -> None:
        for path in (self._path(name), self._path(name).with_suffix(".json")):
            path.unlink(missing_ok=True)
        self.names = [kept for kept in self.names if kept != name]
        self.checks[CHECK] = f"not kept: {reason}"


def _copied_to_cpu(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers lie on the CPU; nothing is copied on the device."""
    from torch import nn

    memo: dict[int, object] = {id(buffer): buffer.detach().cpu().clone() for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().cpu().clone(), parameter.requires_grad)
    return copy.deepcopy(model, memo)


def _are_close(one: Tensor, other: Tensor) -> bool:
    import torch

    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
