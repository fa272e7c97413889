"""What only a CUDA device can show; run by benchmarks/on_gpu.sh on a machine that has one."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from mnistbench.cell import Cell, Component, Training
from mnistbench.data import datasets
from mnistbench.results.records import CellRecord, Data
from mnistbench.train.job import Job
from mnistbench.train.train import train_cell

pytestmark = pytest.mark.gpu


def train(data_dir: Path, cell: Cell) -> CellRecord:
    prepared = datasets.prepare(cell.dataset, data_dir=data_dir)
    job = Job(cell=cell, record_id="gpu", data_directory=str(prepared.directory), data=Data(sha256=prepared.sha256))
    return train_cell(job, on_epoch=lambda epoch: None, process_started=time.perf_counter())


@pytest.fixture
def on_cuda(cell: Cell) -> Cell:
    return dataclasses.replace(cell, device="cuda", training=Training(epochs=2))


@pytest.mark.parametrize("network", ["mlp", "lenet5", "cnn", "resnet"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_the_timed_path_passes_the_gate(data_dir: Path, on_cuda: Cell, network: str, optimizer: str) -> None:
    """With every lever of `fast`, graphs included."""
    component = Component(name=optimizer, options={"lr": 0.001})
    cell = dataclasses.replace(on_cuda, architecture=Component(name=network), optimizer=component)
    record = train(data_dir, cell)
    assert record.status == "finished"
    assert record.checks["equivalence"] in ("passed", "equivalent up to masks")


def test_device_memory_is_measured(data_dir: Path, on_cuda: Cell) -> None:
    record = train(data_dir, on_cuda)
    assert record.memory is not None and record.memory.device_peak_bytes
    assert record.environment is not None
    assert record.environment.device_name == torch.cuda.get_device_name(0)


def test_lenet_at_batch_8192_passes_five_million_examples_a_second(data_dir: Path, on_cuda: Cell) -> None:
    """The figure is printed; it is a target on an H200, and no machine fails for missing it."""
    cell = dataclasses.replace(
        on_cuda, architecture=Component(name="lenet5"), batch_size=8192, training=Training(epochs=40)
    )
    record = train(data_dir, cell)
    rate = sum(epoch.examples for epoch in record.epochs) / sum(epoch.train_seconds for epoch in record.epochs)
    print(f"lenet5 at batch 8192: {rate:,.0f} examples/s")
    assert record.status == "finished"
