"""What only a CUDA device can show; run by benchmarks/on_gpu.sh on a machine that has one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
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


GRID = """
dataset: mnist
architectures: [{network}, mlp]
optimizers: [sgd]
batch_sizes: [1024]
devices: [cuda]
seeds: [0]
training: {{epochs: 1}}
speed: off
"""

PLUG_IN = """
import torch
from torch import nn


class WaitsForTheDevice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x):
        outputs = self.layer(x.flatten(1))
        return outputs if outputs.sum().item() > float("-inf") else -outputs


class TakesAllMemory(WaitsForTheDevice):
    def forward(self, x):
        torch.empty(1 << 48, device=x.device if self.training else "meta")
        return self.layer(x.flatten(1))
"""


def run(data_dir: Path, folder: Path, network: str) -> dict[str, CellRecord]:
    """Records by network, of a run as a user starts it."""
    (folder / "own.py").write_text(PLUG_IN)
    (folder / "grid.yaml").write_text(GRID.format(network=f"own:{network}"))
    command = [sys.executable, "-m", "mnistbench", "run", "grid.yaml", "--plugin", "own", "--out", "results"]
    environment = {**os.environ, "MNISTBENCH_DATA": str(data_dir.resolve()), "PYTHONPATH": os.pathsep.join(sys.path)}
    command += ["--no-tracking"]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    files = (folder / "results" / "cells").glob("*.json")
    records = [CellRecord.from_json(json.loads(path.read_text())) for path in files]
    assert len(records) == 2, done.stdout + done.stderr
    return {record.cell.architecture.name: record for record in records}


def test_a_network_that_waits_for_the_device_is_trained_without_a_graph(data_dir: Path, tmp_path: Path) -> None:
    records = run(data_dir, tmp_path, "WaitsForTheDevice")
    waiting, other = records["own:WaitsForTheDevice"], records["mlp"]
    assert waiting.status == other.status == "finished"
    assert "graph" in waiting.execution_resolved["stepped_aside"] and other.execution_resolved["graph"]


def test_a_cell_that_takes_all_device_memory_is_recorded_and_the_next_is_trained(
    data_dir: Path, tmp_path: Path
) -> None:
    records = run(data_dir, tmp_path, "TakesAllMemory")
    assert (records["own:TakesAllMemory"].status, records["mlp"].status) == ("out_of_memory", "finished")
