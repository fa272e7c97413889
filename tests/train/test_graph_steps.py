"""Whole steps in a graph, on a CPU: a stand-in records what a CUDA graph would, and replays it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mnistbench.cell import Cell, Component, Training
from mnistbench.data import datasets
from mnistbench.results.records import CellRecord, Data
from mnistbench.train import setup, train
from mnistbench.train.batches import ResidentBatches, single
from mnistbench.train.block import time_block
from mnistbench.train.equivalence import check as equivalence
from mnistbench.train.job import Job
from mnistbench.train.setup import Trainee, make_trainee
from mnistbench.train.steps import cuda_graph
from mnistbench.train.steps.cuda_graph import MOST_AT_ONCE, GraphStep, steps_at_once
from mnistbench.train.steps.update import Update
from mnistbench.train.warmup import warm_up

MOMENTUM = Component(name="sgd", options={"lr": 0.05, "momentum": 0.9})
ADAM = Component(name="adam", options={"lr": 0.003})
ONE_CYCLE = Component(name="one_cycle")
ROWS, BATCH = 1000, 24


class Replayed:
    """Runs again what was recorded, on the tensors it was recorded with; like a capture, recording itself runs it."""

    recorded: ClassVar[list[Replayed]] = []

    def __init__(self, launch: Callable[[], list[torch.Tensor]]) -> None:
        self.launch, self.replays = launch, 0
        self.tensors = [tensor.detach().clone() for tensor in launch()]
        self.recorded.append(self)

    def replay(self) -> None:
        self.replays += 1
        for tensor, again in zip(self.tensors, self.launch(), strict=True):
            tensor.copy_(again.detach())


def record(launch: Callable[[], list[torch.Tensor]]) -> tuple[Replayed, list[torch.Tensor]]:
    launch()
    made = Replayed(launch)
    return made, made.tensors


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Replayed]:
    """Has the CPU's steps replayed; all graphs that were recorded. Answers of the gate are not the user's."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "has_graphs", lambda levers, device: True)
    monkeypatch.setattr(cuda_graph, "record_cuda_graph", record)
    monkeypatch.setattr(Replayed, "recorded", [])
    return Replayed.recorded


def job_of(
    cell: Cell, optimizer: Component, *, schedule: Component | None = None, images: Component | None = None
) -> Job:
    """Sums of three digits, or images for a network whose BatchNorm has statistics; by autograd."""
    prepared = datasets.prepare(images or Component(name="sum3", options={"rows": ROWS}))
    cell = replace(
        cell,
        dataset=prepared.component,
        architecture=Component(name="speedrun" if images else "mlp"),
        optimizer=optimizer,
        schedule=schedule or cell.schedule,
        batch_size=BATCH,
        training=Training(epochs=2),
        execution=Component(name="fast", options={"step": "autograd"}),
    )
    return Job(cell=cell, record_id="r", data_directory=str(prepared.directory), data=Data(sha256=prepared.sha256))


def trained(job: Job, monkeypatch: pytest.MonkeyPatch) -> CellRecord:
    monkeypatch.setattr(equivalence, "check_trainee", lambda job, trainee: "not checked")
    return train.train_cell(job, on_epoch=lambda epoch: None, process_started=time.perf_counter())


@pytest.mark.parametrize(("optimizer", "schedule"), [(MOMENTUM, None), (ADAM, ONE_CYCLE), (MOMENTUM, ONE_CYCLE)])
def test_replayed_steps_train_what_single_steps_train(
    digit_images: Component,
    cell: Cell,
    monkeypatch: pytest.MonkeyPatch,
    graphs: list[Replayed],
    optimizer: Component,
    schedule: Component | None,
) -> None:
    """Losses, right answers and weights: pieces of several steps, single steps, the partial batch."""
    job = job_of(cell, optimizer, schedule=schedule)
    replayed = trained(job, monkeypatch)
    assert {graph.tensors[0].shape for graph in graphs} == {(MOST_AT_ONCE,), (1,)}
    monkeypatch.undo()
    plain = trained(job, monkeypatch)
    for ours, theirs in zip(replayed.epochs, plain.epochs, strict=True):
        assert (ours.examples, ours.steps) == (theirs.examples, theirs.steps)
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.train_accuracy == pytest.approx(theirs.train_accuracy, abs=2e-3)
        assert ours.test_loss == pytest.approx(theirs.test_loss, rel=1e-3)


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM])
def test_a_capture_leaves_weights_statistics_and_optimizer_as_they_were(
    digit_images: Component, cell: Cell, graphs: list[Replayed], optimizer: Component
) -> None:
    """Also the one that comes in the middle of a training, at a batch of a size that was not seen before."""
    trainee = make_trainee(job_of(cell, optimizer, images=digit_images), torch.device("cpu"))
    other = trainee.anew()
    inputs, labels = next(iter(trainee.batches.epoch(1)))
    size = trainee.batches.batch_size
    first = (inputs[:size], labels[:size])
    for each in (trainee, other):
        each.take_steps(*first, [1.0])
    captured = len(graphs)
    assert isinstance(trainee.step, GraphStep)
    trainee.step._capture_whole_steps(inputs.clone(), labels.clone(), trainee.batches.together)
    trainee.step._capture_gradients(*first)
    assert len(graphs) == captured + 2
    for each in (trainee, other):
        each.take_steps(*first, [1.0])
    assert_alike(trainee, other)


def test_an_optimizer_that_graphs_hold_is_renewed_in_place(cell: Cell, graphs: list[Replayed]) -> None:
    trainee = make_trainee(job_of(cell, ADAM, schedule=ONE_CYCLE), torch.device("cpu"))
    other = trainee.anew()
    warm_up(trainee, 0)
    kept = trainee.update.optimizer
    trainee.update.renew()
    assert trainee.update.optimizer is kept
    for each in (trainee, other):
        for inputs, labels in single(each.batches.epoch(1), each.batches.batch_size):
            each.take_steps(inputs, labels, [0.5])
    assert_alike(trainee, other)


def assert_alike(ours: Trainee, theirs: Trainee) -> None:
    for name, value in ours.model.state_dict().items():
        torch.testing.assert_close(value, theirs.model.state_dict()[name], rtol=0, atol=0, msg=name)


def test_the_gate_looks_at_graphs_of_several_steps(cell: Cell, graphs: list[Replayed]) -> None:
    job = job_of(cell, MOMENTUM)
    trainee = make_trainee(job, torch.device("cpu"))
    assert equivalence.check_trainee(job, trainee) == "passed"
    assert any(len(graph.tensors[0]) == MOST_AT_ONCE and graph.replays for graph in graphs if graph.tensors[0].dim())


def test_the_gate_sees_a_graph_that_takes_one_step_twice(
    cell: Cell, graphs: list[Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(cell, MOMENTUM)
    trainee = make_trainee(job, torch.device("cpu"))
    take = GraphStep.take

    def skips_one(self: GraphStep, inputs: torch.Tensor, labels: torch.Tensor, factors: list[float]) -> object:
        if len(factors) > 1:
            inputs = inputs.clone()
            inputs[BATCH : 2 * BATCH] = inputs[:BATCH]
        return take(self, inputs, labels, factors)

    monkeypatch.setattr(GraphStep, "take", skips_one)
    assert equivalence.check_trainee(job, trainee).startswith("failed: G3 steps at once")


@pytest.mark.parametrize("name", ["adagrad", "muon", "nadam"])
def test_an_update_that_no_graph_can_hold_stays_outside(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, graphs: list[Replayed], name: str
) -> None:
    record = trained(job_of(cell, Component(name=name, options={"lr": 0.001})), monkeypatch)
    assert record.status == "finished"
    assert all(len(graph.tensors) > 2 for graph in graphs), "these are graphs of gradients"


@pytest.mark.parametrize(
    ("name", "fused", "is_ours", "fits"),
    [
        ("sgd", True, True, True),
        ("sgd", True, False, False),  # torch's fused SGD fails where one weight's momentum begins later
        ("sgd", False, True, False),  # its learning rate would be read on the CPU
        ("adam", True, False, True),
        ("adamw", False, True, False),
        ("rmsprop", False, False, True),
        ("adamax", True, True, False),
        ("muon", True, True, False),
    ],
)
def test_a_graph_holds_the_updates_that_it_does_as_torch_does(
    name: str, fused: bool, is_ours: bool, fits: bool
) -> None:
    options = {"lr": 0.05, "momentum": 0.9} if name == "sgd" else {"lr": 0.001}
    component = Component(name=name, options=options)
    update = Update(torch.nn.Linear(3, 2), component, fused=fused, in_graph=True, is_ours=is_ours)
    assert update.fits_graph is fits
    assert not Update(torch.nn.Linear(3, 2), component, fused=fused, is_ours=is_ours).fits_graph


def test_a_block_takes_whole_pieces(cell: Cell, graphs: list[Replayed]) -> None:
    """So it may be some steps longer than was asked for, and says so."""
    job = job_of(cell, MOMENTUM)
    measured = time_block(job, 3)
    assert (measured.steps, measured.examples) == (MOST_AT_ONCE, MOST_AT_ONCE * BATCH)


@pytest.mark.parametrize("shuffle", [True, False])
def test_pieces_are_the_batches_of_the_epoch_in_their_order(shuffle: bool) -> None:
    inputs, labels = torch.arange(70.0).unsqueeze(1), torch.arange(70)
    alone = ResidentBatches(inputs, labels, batch_size=8, seed=0, shuffle=shuffle)
    pieces = replace(alone, together=3)
    assert [len(wanted) for _, wanted in pieces.epoch(1)] == [24, 24, 8, 8, 6]
    for (some, wanted), (ours, theirs) in zip(single(pieces.epoch(2), 8), alone.epoch(2), strict=True):
        assert torch.equal(some, ours) and torch.equal(wanted, theirs)
    assert [len(wanted) for _, wanted in pieces.part_of_epoch(1, 2)] == [8, 8, 6]
    assert [len(wanted) for _, wanted in pieces.rehearsal(2)] == [24, 8, 8, 6]
    few = replace(alone, together=9)
    assert [len(wanted) for _, wanted in few.epoch(1)] == [8] * 8 + [6]
    assert [len(wanted) for _, wanted in few.rehearsal(2)] == [8, 8, 6], "of sizes that no epoch has no graph is made"


def test_a_graph_of_many_examples_holds_one_step() -> None:
    assert [steps_at_once(size) for size in (1, 64, 256, 512, 1024, 2048, 8192)] == [8, 8, 8, 4, 2, 1, 1]
