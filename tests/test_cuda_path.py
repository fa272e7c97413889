"""What the CUDA path does, as far as it can be seen without a GPU: the device is played, an import refused."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.optim import adagrad

from mnistbench.cell import Cell, Component
from mnistbench.data.cache import cache_folder
from mnistbench.execution import fast
from mnistbench.executors import ProcessExecutor
from mnistbench.gate import gates
from mnistbench.records import Data
from mnistbench.training.steps.cuda_graph import CaptureFailed, record_cuda_graph
from mnistbench.training.steps.update import Update
from mnistbench.training.trainee import _levers_that_fit
from mnistbench.worker import Job

ROOT = Path(__file__).parents[1]


def test_without_platformdirs_the_cache_lies_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine with torch alone has none."""
    monkeypatch.delenv("MNISTBENCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert cache_folder() == tmp_path / ".cache" / "mnistbench"


@pytest.mark.parametrize(
    ("devices", "answer"),
    [
        (["cpu"], "has no cell for a GPU: make it with `plan --device cuda`"),
        (["cpu", "cuda"], "torch sees no CUDA device here"),
    ],
)
def test_the_script_for_a_gpu_refuses_cells_without_one(tmp_path: Path, devices: list[str], answer: str) -> None:
    """`devices: auto` on a machine without a GPU gives cells for the CPU alone."""
    for grid in ("cpu_vs_gpu", "speedrun"):
        (tmp_path / f"{grid}.json").write_text(json.dumps({"cells": [{"device": device} for device in devices]}))
    command = ["bash", "benchmarks/on_gpu.sh", "data", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert answer in done.stderr


class Streams:
    """As much of `torch.cuda` as a capture asks for; recording refuses what `forbidden` says."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.is_recording = error, False

    @contextlib.contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        self.is_recording = True
        yield

    def launch(self) -> list[torch.Tensor]:
        if self.is_recording and self.error is not None:
            raise self.error
        return [torch.ones(1)]


def played(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> Streams:
    streams = Streams(error)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": SimpleNamespace,
        "graph": streams.graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return streams


def test_a_step_that_runs_and_cannot_be_captured_is_told_from_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = played(monkeypatch, RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore"))
    with pytest.raises(CaptureFailed, match=r"\(CUDA error: operation not permitted when stream is capturing\)"):
        record_cuda_graph(streams.launch)
    streams = played(monkeypatch, ValueError("a fault of the network"))
    streams.is_recording = True  # it fails before anything is recorded, too
    with pytest.raises(ValueError, match="a fault of the network"):
        record_cuda_graph(streams.launch)
    streams = played(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        record_cuda_graph(streams.launch)


def test_a_graph_that_an_earlier_worker_could_not_capture_steps_aside(cell: Cell) -> None:
    job = Job(cell=cell, record_id="r", data_directory="-", data=Data(sha256="d"), without_graph="it calls .item()")
    resolved = replace(job, resolved=fast().to_json())
    for one in (job, resolved):
        levers = _levers_that_fit(one, torch.nn.Sequential(), fast(), torch.device("cuda"))
        assert not levers.graph
        assert levers.stepped_aside["graph"] == "it calls .item()"


@pytest.mark.slow
def test_a_cell_whose_graph_cannot_be_captured_runs_again_in_a_fresh_process_without_one(cell: Cell) -> None:
    executor = ProcessExecutor(train="stand_ins:captured", preload=())
    jobs = [
        Job(cell=replace(cell, seed=seed), record_id=str(seed), data_directory="-", data=Data(sha256="d"))
        for seed in (0, 1)
    ]
    try:
        records = list(executor.run(jobs, lambda job, epoch: None))
    finally:
        executor.close()
    assert [(record.record_id, record.status) for record in records] == [("0", "finished"), ("1", "finished")]
    assert records[0].execution_resolved == {"without_graph": "it calls .item()"}
    assert records[1].execution_resolved == {"without_graph": ""}


def test_an_optimizer_without_a_fused_kernel_here_takes_the_flat_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 refuses a fused Adagrad on CUDA at its first step, and torch 2.15 does not: it is tried."""

    def refuse(parameter: torch.Tensor) -> None:
        raise RuntimeError("`fused=True` requires all the params to be on cpu")

    monkeypatch.setattr(adagrad, "_device_dtype_check_for_fused", refuse)
    model = torch.nn.Linear(3, 2)
    update = Update(model, Component(name="adagrad", options={"lr": 0.1}), fused=True)
    assert update.kind == "flat"
    before = model.weight.detach().clone()
    update.gradients = [torch.ones_like(each) for each in model.parameters()]
    update(1.0)
    assert not torch.equal(model.weight, before)


class Counting:
    """A path that notes how many examples each of its steps has."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.examples: list[int] = []

    def restore(self, state: object) -> None:
        pass

    def train_step(self, batch: tuple[torch.Tensor, torch.Tensor], factor: float) -> float:
        self.examples.append(len(batch[1]))
        return 1.0


def test_the_gates_whole_steps_take_a_part_of_a_large_batch() -> None:
    """Five steps of 8192 in plain PyTorch cost a loaded CPU minutes."""
    batch = torch.zeros(8192, 1), torch.zeros(8192, dtype=torch.int64)
    sides = Counting(), Counting()
    gates.loss(*sides, [(batch, batch)], factors=[1.0] * 5)  # type: ignore[arg-type]
    assert [side.examples for side in sides] == [[1024] * 5] * 2
