"""The gate: right levers pass, planted faults fail, and the answer is kept as long as it holds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnistbench.axes.execution import levers_of, plain
from mnistbench.axes.optimizers import OPTIMIZERS
from mnistbench.cell import Cell, Component, Training
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data.arrays import Arrays
from mnistbench.data.cache import write_entry
from mnistbench.data.datasets import load, prepare
from mnistbench.results.records import Data
from mnistbench.train.equivalence import gates, masks
from mnistbench.train.equivalence.check import (
    _network_of,
    check,
    check_trainee,
    compare,
    is_reference,
    make_reference,
    verdict,
)
from mnistbench.train.equivalence.gates import Finding
from mnistbench.train.equivalence.reference import Batch, Reference, TrainingPath
from mnistbench.train.job import Job
from mnistbench.train.setup import make_trainee
from mnistbench.train.steps.written import WrittenStep
from mnistbench.train.warmup import choose

pytestmark = pytest.mark.slow

EXAMPLES, BATCH_SIZE, CHUNK = 400, 96, 40
FAST = levers_of(Component(name="fast")).to_json()


@pytest.fixture(scope="module")
def data(digit_images: Component, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images, so few that an epoch has four batches and a tail of 16."""
    whole = load(prepare(digit_images).directory)
    inputs, labels = whole.train_inputs[: EXAMPLES + 100], whole.train_labels[: EXAMPLES + 100]
    spec = replace(whole.spec, train_examples=EXAMPLES, test_examples=100)
    directory = tmp_path_factory.mktemp("prepared") / "mnist"
    write_entry(
        directory,
        Arrays(
            train_inputs=inputs[:EXAMPLES],
            train_labels=labels[:EXAMPLES],
            test_inputs=inputs[EXAMPLES:],
            test_labels=labels[EXAMPLES:],
            spec=spec,
        ),
    )
    return directory


SMALL: dict[str, dict[str, Any]] = {"cnn": {"channels": [4, 16]}, "resnet": {"width": 4}, "mlp": {"hidden": [64, 32]}}


def cell_of(architecture: str = "lenet5", optimizer: str = "adam", **options: Any) -> Cell:
    options = {**SMALL.get(architecture, {}), **options}
    return Cell(
        dataset=Component(name="mnist"),
        architecture=Component(name=architecture, options=options),
        optimizer=Component(name=optimizer),
        batch_size=BATCH_SIZE,
        device="cpu",
        seed=0,
        training=Training(epochs=1, loss="nll" if architecture == "cnn" else "cross_entropy"),
    )


class Sound(Reference):
    """What a right lever is like: the reference's numbers, unless a double below changes them."""


class Chunked(Sound):
    """Chunks whose gradients add up to the batch's."""

    def weight(self, chunk: int, batch: int) -> float:
        return chunk / batch

    def gradients(self, batch: Batch) -> list[Tensor]:
        inputs, labels = batch
        total = [torch.zeros_like(each) for each in self.model.parameters()]
        for some, wanted in zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True):
            for sum_, part in zip(total, super().gradients((some, wanted)), strict=True):
                sum_.add_(part, alpha=self.weight(len(wanted), len(labels)))
        return total

    def train_step(self, batch: Batch, factor: float) -> float:
        with torch.no_grad():
            loss = self._mean_loss(batch).item()
        self.apply(self.gradients(batch), factor)
        return loss


class UnweightedChunks(Chunked):
    """The planted fault: a last chunk that is smaller weighs as much as the others."""

    def weight(self, chunk: int, batch: int) -> float:
        return 1 / -(-batch // CHUNK)


class DroppedTailOfChunks(Chunked):
    """The planted fault inside a batch: what does not fill a chunk is left out."""

    def weight(self, chunk: int, batch: int) -> float:
        return chunk / batch if chunk == CHUNK else 0.0


class TipsAtOneImage(Sound):
    """A right lever whose rounding flips a ReLU at the first image of each batch."""

    def gradients(self, batch: Batch) -> list[Tensor]:
        found = super().gradients(batch)
        tipping = {image.numpy().tobytes() for image in (inputs[0] for inputs, _ in self.epoch(1))}
        if any(image.numpy().tobytes() in tipping for image in batch[0]):
            found = [each * (1 + 1e-3) for each in found]
        return found


class SlightlyOff(Sound):
    """A fault as small, at every image."""

    def gradients(self, batch: Batch) -> list[Tensor]:
        return [each * (1 + 1e-3) for each in super().gradients(batch)]


class DroppedTail(Sound):
    """The planted fault: an epoch without its last partial batch."""

    def epoch(self, number: int, first: int | None = None) -> Iterator[Batch]:
        return (batch for batch in super().epoch(number, first) if len(batch[1]) == BATCH_SIZE)


class ShiftedLabels(Sound):
    """The planted fault: each image with its neighbour's label."""

    def epoch(self, number: int, first: int | None = None) -> Iterator[Batch]:
        return ((inputs, labels.roll(1)) for inputs, labels in super().epoch(number, first))


class LabelsShiftedLate(Sound):
    """The same fault between reader and loss, where only gradients show it."""

    def _mean_loss(self, batch: Batch) -> Tensor:
        return super()._mean_loss((batch[0], batch[1].roll(1)))


class FrozenMask(Sound):
    """The planted fault: a replayed step that draws the same random numbers each time."""

    def _mean_loss(self, batch: Batch) -> Tensor:
        torch.manual_seed(0)
        return super()._mean_loss(batch)


class MaskSharedByChunks(Chunked):
    """Each chunk starts from the same random state."""

    def gradients(self, batch: Batch) -> list[Tensor]:
        self._state = torch.get_rng_state()
        drawn = super().gradients(batch)
        torch.rand(1)  # the next step has another one
        return drawn

    def _mean_loss(self, batch: Batch) -> Tensor:
        if hasattr(self, "_state"):
            torch.set_rng_state(self._state)
        return super()._mean_loss(batch)


def as_tf32(x: Tensor) -> Tensor:
    """Rounded to TF32's 10 bits of mantissa."""
    return ((x.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


class TF32LeftOn(Sound):
    """The planted fault as a CPU can show it: operands of matrix products and convolutions lose 13 bits."""

    _rounded: list[tuple[Any, Tensor]]

    def _mean_loss(self, batch: Batch) -> Tensor:
        if next(self.model.parameters()).dtype != torch.float32:
            return super()._mean_loss(batch)
        layers = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        hooks = [layer.register_forward_pre_hook(lambda _, given: (as_tf32(given[0]),)) for layer in layers]
        kept = [layer.weight.detach().clone() for layer in layers]
        with torch.no_grad():
            for layer in layers:
                layer.weight.data = as_tf32(layer.weight.detach())
        loss = super()._mean_loss(batch)
        for hook in hooks:
            hook.remove()
        self._rounded = list(zip(layers, kept, strict=True))
        return loss

    def gradients(self, batch: Batch) -> list[Tensor]:
        found = super().gradients(batch)
        self._unround()
        return found

    def _update(self, factor: float, closure: Any = None) -> None:
        self._unround()
        super()._update(factor, closure)

    def _unround(self) -> None:
        for layer, weight in getattr(self, "_rounded", []):
            layer.weight.data = weight
        self._rounded = []


class ChannelsLast(Sound):
    """A right lever: convolutions read another memory layout."""

    def as_floats(self, inputs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return super().as_floats(inputs, dtype).contiguous(memory_format=torch.channels_last)


class GradientsInAnotherLayout(Sound):
    """A whole step whose update reads the right gradients in the wrong order."""

    def train_step(self, batch: Batch, factor: float) -> float:
        with torch.no_grad():
            loss = self._mean_loss(batch).item()
        self.apply([each.flatten().roll(1).view_as(each) for each in self.gradients(batch)], factor)
        return loss


class LearningRateBakedIn(Sound):
    """A captured update that never sees the schedule."""

    def _update(self, factor: float, closure: Any = None) -> None:
        super()._update(0.5, closure)


class MomentumKept(Sound):
    """A warm-up that leaves its optimizer state behind."""

    def restore(self, state: Any) -> None:
        self.model.load_state_dict(dict(state))


class MomentsZeroed(Sound):
    """The planted fault: a warm-up that fills the optimizer's state with zeros, wherever it began."""

    def restore(self, state: Any) -> None:
        super().restore(state)
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        for kept in self.optimizer.state.values():
            for value in kept.values():
                value.zero_()
        self.model.load_state_dict(dict(state))


class OneRateForAll(Sound):
    """The planted fault: the first group's learning rate is written into all."""

    def _update(self, factor: float, closure: Any = None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimizer.param_groups[-1]["lr"]
        super()._update(factor, closure)


class MissingTakenForZero(Sound):
    """The planted fault: momentum and decay move a weight that has no gradient."""

    def gradients(self, batch: Batch) -> list[Tensor | None]:
        pairs = zip(self.model.parameters(), super().gradients(batch), strict=True)
        return [torch.zeros_like(each) if found is None else found for each, found in pairs]


class StaleBuffers(Sound):
    """BatchNorm's running statistics stay where they were."""

    def train_step(self, batch: Batch, factor: float) -> float:
        before = [buffer.clone() for buffer in self.model.buffers()]
        loss = super().train_step(batch, factor)
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        return loss


def maker(kind: type[Reference], cell: Cell, data: Path) -> Callable[[Any], TrainingPath]:
    def make(prepare: Callable[[nn.Module], None]) -> TrainingPath:
        made = make_reference(cell, data, prepare=prepare)
        made.__class__ = kind
        return made

    return make


def failures(kind: type[Reference], cell: Cell, data: Path) -> list[str]:
    findings, _ = compare(cell, FAST, data, maker(kind, cell, data))
    return [finding.gate for finding in findings if not finding.passed]


@pytest.mark.parametrize("architecture", ["mlp", "lenet5", "cnn", "logistic"])
@pytest.mark.parametrize("lever", [Sound, Chunked, ChannelsLast])
def test_right_levers_pass(lever: type[Reference], architecture: str, data: Path) -> None:
    assert failures(lever, cell_of(architecture, "sgd"), data) == []


def test_a_flip_at_few_examples_passes_and_the_same_error_at_all_fails(data: Path) -> None:
    cell = cell_of("mlp", "sgd")
    assert failures(TipsAtOneImage, cell, data) == []
    assert "G1 gradient" in failures(SlightlyOff, cell, data)


@pytest.mark.parametrize("architecture", ["resnet", "speedrun"])
def test_networks_with_batch_norm_pass(architecture: str, data: Path) -> None:
    assert failures(Sound, cell_of(architecture), data) == []


@pytest.mark.parametrize(
    ("fault", "gate"),
    [
        (UnweightedChunks, "G1 gradient"),
        (DroppedTailOfChunks, "G1 gradient"),
        (DroppedTail, "G0 other batches in epoch 1"),
        (ShiftedLabels, "G0 other labels in epoch 1"),
        (LabelsShiftedLate, "G1 gradient"),
        (TF32LeftOn, "G1 gradient"),
        (GradientsInAnotherLayout, "G3 first update"),
        (LearningRateBakedIn, "G2 update"),
        (MomentumKept, "G3 loss"),
    ],
)
def test_planted_faults_fail(fault: type[Reference], gate: str, data: Path) -> None:
    assert any(failed.startswith(gate) for failed in failures(fault, cell_of("lenet5"), data))


class Plugged:
    """Plug-ins as the command line would have loaded them."""

    def __init__(self, **found: Any) -> None:
        self._found = found

    def find(self, name: str) -> Any:
        return self._found[name.partition(":")[2]]


def biases_faster(parameters: Any, lr: float = 0.05) -> torch.optim.Optimizer:
    each = list(parameters)
    matrices, vectors = [p for p in each if p.ndim > 1], [p for p in each if p.ndim == 1]
    return torch.optim.SGD([{"params": matrices}, {"params": vectors, "lr": 20 * lr}], lr=lr)


class SkipsALayer(nn.Module):
    """A layer that is left out at random has no gradient then."""

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.first, self.maybe, self.last = nn.Linear(784, 16), nn.Linear(16, 16), nn.Linear(16, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        if not self.training or random.random() < 0.5:
            x = x + torch.relu(self.maybe(x))
        return self.last(x)


class NormDropoutAttention(nn.Module):
    """What the gate once took for faults: BatchNorm behind dropout, attention with dropout, dropout without a layer."""

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(28, 4, dropout=0.2, batch_first=True)
        self.dropout, self.norm = nn.Dropout(0.3), nn.BatchNorm1d(28)
        self.last = nn.Linear(28 * 28, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.squeeze(1)
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0]
        rows = nn.functional.dropout(self.norm(self.dropout(rows)), 0.1, self.training)
        return self.last(rows.flatten(1))


class Counts(nn.Module):
    """Its outputs depend on how often it was called in training, and on a buffer that is in no state dict."""

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.layers, self.calls = nn.Sequential(nn.Flatten(), nn.LazyLinear(data.classes)), 0
        self.register_buffer("centre", torch.zeros(data.classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.training:
            self.calls += 1
            self.centre = 0.9 * self.centre + 0.1 * y.detach().mean(0)
        return (y - self.centre) * (1 + 0.01 * self.calls)


def plugged_cell(architecture: str = "mlp", optimizer: str = "sgd") -> Cell:
    return replace(
        cell_of("mlp", "sgd"),
        architecture=Component(name=architecture, options=SMALL.get(architecture, {})),
        optimizer=Component(name=optimizer),
    )


@pytest.mark.parametrize(
    ("fault", "architecture", "optimizer"),
    [(OneRateForAll, "mlp", "mine:biases_faster"), (MissingTakenForZero, "mine:SkipsALayer", "sgd")],
)
def test_what_belongs_to_the_optimizer_is_seen_by_the_gate(
    fault: type[Reference], architecture: str, optimizer: str, data: Path
) -> None:
    cell = plugged_cell(architecture, optimizer)
    plugins: Any = Plugged(biases_faster=biases_faster, SkipsALayer=SkipsALayer)

    def failed(kind: type[Reference]) -> list[str]:
        def make(prepare: Callable[[nn.Module], None]) -> TrainingPath:
            made = make_reference(cell, data, plugins, prepare)
            made.__class__ = kind
            return made

        findings, _ = compare(cell, FAST, data, make, plugins=plugins)
        return [finding.gate for finding in findings if not finding.passed]

    assert failed(Sound) == []
    assert failed(fault)


def test_state_that_does_not_begin_at_zero_and_was_zeroed_fails(data: Path) -> None:
    cell = replace(cell_of("mlp"), optimizer=Component(name="nadam"))
    assert failures(MomentsZeroed, cell, data)


@pytest.mark.parametrize("network", [NormDropoutAttention, Counts, SkipsALayer])
def test_networks_of_other_people_raise_no_false_alarm(network: type[nn.Module], data: Path) -> None:
    cell = plugged_cell(f"mine:{network.__name__}")
    plugins: Any = Plugged(**{network.__name__: network})
    findings, _ = compare(
        cell, FAST, data, lambda prepare: make_reference(cell, data, plugins, prepare), plugins=plugins
    )
    assert [str(finding) for finding in findings if not finding.passed] == []


@pytest.mark.parametrize(
    ("fault", "gate"),
    [(FrozenMask, "masks repeated between gradients"), (MaskSharedByChunks, "masks' scatter")],
)
def test_faults_of_masks_fail(fault: type[Reference], gate: str, data: Path) -> None:
    found = failures(fault, cell_of("cnn"), data)
    assert gate in found
    assert all(each.startswith("masks") for each in found)


def test_another_keep_rate_fails(data: Path) -> None:
    cell = cell_of("cnn", dropout=0.25)

    def make(prepare: Callable[[nn.Module], None]) -> TrainingPath:
        def prepare_and_drop_more(model: nn.Module) -> None:
            prepare(model)
            for layer in model.modules():
                if isinstance(layer, nn.Dropout2d) and layer.p > 0:
                    layer.p = 0.5

        return make_reference(cell, data, prepare=prepare_and_drop_more)

    findings, _ = compare(cell, FAST, data, make)
    assert [finding.gate for finding in findings if not finding.passed] == ["masks' scatter"]


def test_random_slopes_pass_like_masks(data: Path) -> None:
    cell = cell_of("mlp", "sgd", activation="rrelu")
    findings, random = compare(cell, FAST, data, maker(Chunked, cell, data))
    assert verdict(findings, "fp32", random=random) == "equivalent up to masks"


def test_stale_running_statistics_fail(data: Path) -> None:
    assert failures(StaleBuffers, cell_of("speedrun"), data) == ["G3 buffers"]


def test_batch_norm_in_chunks_fails(data: Path) -> None:
    assert "G1 gradient" in failures(Chunked, cell_of("resnet"), data)


def test_other_weights_fail(data: Path) -> None:
    cell = cell_of()
    other = replace(cell, seed=1)
    findings, _ = compare(cell, FAST, data, maker(Sound, other, data))
    assert "G0 other weights" in {finding.gate for finding in findings if not finding.passed}


def test_a_loss_that_is_no_number_fails(data: Path) -> None:
    class NoNumber(Sound):
        def train_step(self, batch: Batch, factor: float) -> float:
            super().train_step(batch, factor)
            return float("nan")

    assert failures(NoNumber, cell_of("mlp"), data) == ["G3 loss"]


def answer_of(cell: Cell, data: Path) -> str:
    """What a record says of the path that `train_cell` would time."""
    job = Job(cell=cell, record_id="a", data_directory=str(data), data=Data(sha256="0"))
    return check_trainee(job, choose(job, make_trainee(job, torch.device("cpu"))))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path))


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize(
    ("architecture", "options", "answer"),
    [
        ("mlp", {}, "passed"),
        ("mlp", {"activation": "prelu"}, "passed"),
        ("mlp", {"activation": "rrelu"}, "equivalent up to masks"),
        ("lenet5", {}, "passed"),
        ("lenet5", {"activation": "sigmoid", "pool": "average", "init": "xavier"}, "passed"),
        ("lenet5", {"activation": "tanh", "pool": "max"}, "passed"),
        ("cnn", {}, "equivalent up to masks"),
        ("cnn", {"dropout": 0.0, "head": "log_softmax"}, "passed"),
        ("resnet", {}, "passed"),
        ("logistic", {}, "passed"),
        ("speedrun", {"channels": [8, 16]}, "passed"),
    ],
)
def test_the_fast_path_of_each_network_passes(
    architecture: str, options: dict[str, Any], answer: str, data: Path
) -> None:
    assert answer_of(cell_of(architecture, "sgd", **options), data) == answer


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize(("classes", "loss", "output"), [(1, "bce", "sigmoid"), (3, "mse", "none")])
@pytest.mark.parametrize("batch_size", [64, 210])
def test_tables_pass(classes: int, loss: Any, output: str, batch_size: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.random((300, 8), dtype=np.float32)
    labels = (inputs.sum(axis=1) * max(classes, 2) / 8).astype(np.int64)
    spec = DataSpec("table", (8,), classes, 210, 90)
    parts = {"train_inputs": inputs[:210], "train_labels": labels[:210], "test_inputs": inputs[210:]}
    write_entry(tmp_path / "table", Arrays(**parts, test_labels=labels[210:], spec=spec))
    cell = replace(
        cell_of("mlp", "adam", hidden=[32, 8, 4], activation="sigmoid", output=output),
        batch_size=batch_size,
        training=Training(epochs=9, loss=loss),
    )
    assert answer_of(cell, tmp_path / "table") == "passed"


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize(
    ("which", "fixed"), [(0, {}), (-1, {}), (-1, {"fold": "no"}), (-1, {"fold": "no", "pool": "nchw", "input": "nchw"})]
)
@pytest.mark.parametrize(
    ("architecture", "options"), [("cnn", {"channels": [4, 8, 8], "dropout": 0.0}), ("speedrun", {"channels": [8, 16]})]
)
def test_whatever_kernels_a_tuning_may_choose_pass(
    architecture: str, options: dict[str, Any], which: int, fixed: dict[str, str], data: Path
) -> None:
    """Gradients in another memory layout than their weights would make fused optimizers err in silence.

    And torch's batch norm of channels-last images rounds worse than that of others.
    """
    cell = cell_of(architecture, "adam", **options)
    job = Job(cell=cell, record_id="a", data_directory=str(data), data=Data(sha256="0"))
    trainee = make_trainee(job, torch.device("cpu"))
    assert isinstance(trainee.step, WrittenStep)
    kernels = []
    for block in trainee.step.blocks:
        chosen = {key: values[which] for key, values in block.choices().items()}
        kernels.append({**chosen, **{key: value for key, value in fixed.items() if key in chosen}})
    chunk = 0 if "chunk" in trainee.levers.stepped_aside else CHUNK
    chosen = trainee.anew(levers=replace(trainee.levers, chunk=chunk, kernels=kernels))
    assert check_trainee(job, chosen) == "passed"


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_fast_path_of_each_optimizer_passes(optimizer: str, data: Path) -> None:
    assert answer_of(cell_of("mlp", optimizer), data) == "passed"


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"optimizer": Component(name="sgd", options={"lr": 0.1, "momentum": 0.9, "nesterov": True})}, "passed"),
        ({"optimizer": Component(name="sgd", options={"lr": 0.1, "weight_decay": 1e-3})}, "passed"),
        ({"schedule": Component(name="one_cycle")}, "passed"),
        ({"schedule": Component(name="one_cycle"), "optimizer": Component(name="adam", options={"lr": 0.1})}, "passed"),
        ({"schedule": Component(name="constant", options={"warmup_fraction": 0.9})}, "passed"),
        ({"batch_size": EXAMPLES}, "passed"),
        ({"dataset": Component(name="mnist", options={"normalize": True})}, "passed"),
        ({"training": Training(epochs=1, validation_examples=100)}, "passed"),
        ({"training": Training(epochs=1, shuffle=False)}, "passed"),
        ({"training": Training(epochs=1, loss="mse")}, "passed"),
        ({"execution": Component(name="fast", options={"chunk": CHUNK})}, "passed"),
        ({"execution": Component(name="fast", options={"data": "loader"})}, "passed"),
        (
            {"execution": Component(name="fast", options={"step": "autograd", "memory_format": "channels_last"})},
            "passed",
        ),
        ({"execution": Component(name="fast", options={"precision": "bf16"})}, "outcome untested"),
        ({"execution": Component(name="plain", options={"data": "resident"})}, "passed"),
        ({"execution": Component(name="plain")}, "reference"),
    ],
)
def test_what_a_grid_may_ask_for_passes(changes: dict[str, Any], answer: str, data: Path) -> None:
    assert answer_of(replace(cell_of(), **changes), data) == answer


def test_silence_leaves_nothing_random() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.1), nn.RReLU())
    assert masks.is_random(model)
    masks.silence(model)
    assert not masks.is_random(model)
    inputs = torch.randn(4, 3, 8, 8)
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize("architecture", ["lenet5", "speedrun"])
def test_double_precision_leaves_the_reference_as_it_was(architecture: str, data: Path) -> None:
    reference = make_reference(cell_of(architecture), data)
    batch = next(iter(reference.epoch(1)))
    before = gates.copied(reference.model.state_dict())
    exactly = reference.exact_gradients(batch)
    after = reference.model.state_dict()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert exactly[0].dtype == torch.float64
    rounded = reference.gradients(batch)
    assert 0 < gates.relative_error(gates.flat(rounded), gates.flat(exactly)) < 1e-3


def passing() -> list[Finding]:
    return [Finding("G1 gradient", 1e-7, 1e-5)]


@pytest.mark.parametrize(
    ("findings", "precision", "random", "words"),
    [
        (passing(), "fp32", False, "passed"),
        (passing(), "fp32", True, "equivalent up to masks"),
        (passing(), "bf16", False, "outcome untested"),
        (passing(), "bf16", True, "outcome untested"),
        ([*passing(), Finding("G1 gradient", 0.16, 1e-5)], "fp32", False, "failed: G1 gradient 1.6e-1 > 1e-5"),
        (
            [Finding("G0 other labels in epoch 1", float("inf"), 0.0)],
            "fp32",
            False,
            "failed: G0 other labels in epoch 1",
        ),
        ([Finding("G3 loss", float("nan"), 1e-4)], "bf16", True, "failed: G3 loss nan > 1e-4"),
    ],
)
def test_verdicts_in_words(findings: Sequence[Finding], precision: str, random: bool, words: str) -> None:
    assert verdict(findings, precision, random=random) == words


def test_the_plain_profile_is_the_reference(data: Path) -> None:
    cell = cell_of()
    assert is_reference(cell, plain(threads=2, isolation="shared").to_json())
    assert not is_reference(cell, plain(chunk=512).to_json())
    assert not is_reference(cell, plain(precision="bf16").to_json())
    assert not is_reference(replace(cell, device="cuda"), plain().to_json())


def test_the_plain_profile_must_earn_its_name(data: Path, tmp_path: Path) -> None:
    cell, levers = replace(cell_of("mlp"), execution=Component(name="plain")), plain().to_json()
    assert check(cell, levers, data, maker(Sound, cell, data), folder=tmp_path / "sound") == "reference"
    answer = check(cell, levers, data, maker(LabelsShiftedLate, cell, data), folder=tmp_path / "faulty")
    assert answer.startswith("failed: G1 gradient")


def test_an_answer_is_kept_with_its_figures_for_all_seeds(data: Path, tmp_path: Path) -> None:
    cell = cell_of("mlp")
    assert check(cell, FAST, data, maker(Sound, cell, data), folder=tmp_path) == "passed"
    other_seed = replace(cell, seed=7, repeat=1)
    again = check(other_seed, FAST, data, lambda prepare: pytest.fail("asked twice"), folder=tmp_path)
    assert again == "passed"
    (file,) = tmp_path.glob("*.json")
    kept = json.loads(file.read_text())
    assert {"G1 gradient", "G2 update", "G3 loss", "G3 first update"} <= {
        finding["gate"] for finding in kept["findings"]
    }
    assert kept["cell"]["architecture"] == {"name": "mlp", "hidden": [64, 32]}


def gates_asked(folder: Path, optimizer: str) -> set[str]:
    answers = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    (answer,) = (each for each in answers if each["cell"]["optimizer"]["name"] == optimizer)
    return {finding["gate"][:2] for finding in answer["findings"]}


def test_a_network_that_passed_is_not_looked_at_again_for_another_optimizer(data: Path, tmp_path: Path) -> None:
    for optimizer, asked in (("adam", {"G0", "G1", "G2", "G3"}), ("sgd", {"G0", "G2", "G3"})):
        cell = cell_of("mlp", optimizer)
        assert check(cell, FAST, data, maker(Sound, cell, data), folder=tmp_path) == "passed"
        assert gates_asked(tmp_path, optimizer) == asked
    other = replace(cell_of("mlp", "rmsprop"), batch_size=BATCH_SIZE // 2)
    assert check(other, FAST, data, maker(Sound, other, data), folder=tmp_path) == "passed"
    assert "G1" in gates_asked(tmp_path, "rmsprop")


def test_a_fault_of_the_optimizer_is_found_where_the_network_had_passed(data: Path, tmp_path: Path) -> None:
    good, bad = cell_of("mlp", "sgd"), cell_of("mlp", "adam")
    assert check(good, FAST, data, maker(Sound, good, data), folder=tmp_path) == "passed"
    assert check(bad, FAST, data, maker(LearningRateBakedIn, bad, data), folder=tmp_path).startswith(
        "failed: G2 update"
    )


def test_a_network_that_failed_is_looked_at_again_for_another_optimizer(data: Path, tmp_path: Path) -> None:
    for optimizer in ("sgd", "adam"):
        cell = cell_of("mlp", optimizer)
        answer = check(cell, FAST, data, maker(UnweightedChunks, cell, data), folder=tmp_path)
        assert answer.startswith("failed: G1 gradient ")


def test_an_optimizer_of_the_users_own_is_asked_with_its_network(data: Path) -> None:
    plain_one, own = cell_of("mlp", "sgd"), cell_of("mlp", "mine:Momentum")
    assert "optimizer" in _network_of(own) and "optimizer" not in _network_of(plain_one)


def test_other_levers_are_asked_anew(data: Path, tmp_path: Path) -> None:
    cell = cell_of("mlp")
    check(cell, FAST, data, maker(Sound, cell, data), folder=tmp_path)
    chunked = {**FAST, "chunk": CHUNK}
    answer = check(cell, chunked, data, maker(UnweightedChunks, cell, data), folder=tmp_path)
    assert answer.startswith("failed: G1 gradient ")
    assert len(list(tmp_path.glob("*.json"))) == 2


@pytest.mark.parametrize("content", ['{"answer": ', '{"answer": "passed, of course"}', '{"answer": 3, "sha256": ""}'])
def test_a_damaged_answer_is_asked_anew(data: Path, tmp_path: Path, content: str) -> None:
    cell = cell_of("mlp")
    check(cell, FAST, data, maker(Sound, cell, data), folder=tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(content)
    assert check(cell, FAST, data, maker(Sound, cell, data), folder=tmp_path) == "passed"


def test_a_gate_that_breaks_fails_and_is_not_kept(data: Path, tmp_path: Path) -> None:
    def broken(prepare: Callable[[nn.Module], None]) -> TrainingPath:
        raise RuntimeError("out of luck\nand more")

    answer = check(cell_of("mlp"), FAST, data, broken, folder=tmp_path)
    assert answer == "failed: the gate could not be run, RuntimeError: out of luck"
    assert list(tmp_path.iterdir()) == []


def test_the_random_state_of_the_caller_is_left_alone(data: Path) -> None:
    cell = cell_of("cnn")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    compare(cell, FAST, data, maker(Sound, cell, data))
    assert torch.equal(torch.rand(4), expected)
