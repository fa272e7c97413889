"""What only a machine with a GPU can say: facts, the equivalence gate, rates, profiles. One JSON line a result.

    OUT=out MNISTBENCH_DATA=data python benchmarks/gpu_probe.py PART [--device cpu] [--seconds 60]

PART is facts, gates, rates, bare or profile. Each result is appended to $OUT/PART.jsonl as soon as it is there; records
and profiles lie in folders beside it. What fails is a line, too. Results that are there already are not made again:
where an error has spoilt the process's CUDA, this ends with status 75, and the same command goes on behind it
(`benchmarks/on_gpu.sh` does that).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

STARTED = time.perf_counter()

import torch

from mnistbench.axes import devices
from mnistbench.cell import Cell, Component, Training
from mnistbench.data import datasets
from mnistbench.results.records import Data, dump
from mnistbench.train import machine, train
from mnistbench.train.clocks import InterferenceMeter, Stopwatch
from mnistbench.train.epoch import together
from mnistbench.train.equivalence import check as equivalence
from mnistbench.train.equivalence.timed_path import TimedPath
from mnistbench.train.evaluate import evaluate
from mnistbench.train.job import Job
from mnistbench.train.setup import Trainee, make_trainee
from mnistbench.train.steps.cuda_graph import CaptureFailed, record_cuda_graph
from mnistbench.train.steps.update import Update
from mnistbench.train.warmup import choose, warm_up

if TYPE_CHECKING:
    from mnistbench.train.equivalence.reference import TrainingPath

SPOILT = 75
MOMENTUM = Component(name="sgd", options={"lr": 0.05, "momentum": 0.9})
ADAM = Component(name="adam", options={"lr": 0.02})
OPTIONAL = ("pydantic", "platformdirs", "ruamel", "mlflow", "pynvml", "psutil", "torchvision", "triton", "pytest")
PROFILED_STEPS = 3

Answer = dict[str, Any]
Question = tuple[str, Callable[[], Answer]]


class Cells:
    """Jobs on one device, over MNIST or, where that is not at hand, over the digits that need no download."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._mnist = Component(name="mnist")
        try:
            self._prepared = datasets.prepare(self._mnist, data_dir=Path(os.environ.get("MNISTBENCH_DATA", "data")))
        except Exception:  # a probe of the device does not end for want of a download
            self._mnist = Component(name="digits")
            self._prepared = datasets.prepare(self._mnist)

    def job(
        self, network: str, optimizer: Component, batch_size: int, epochs: int = 1, profile: str = "fast", **levers: Any
    ) -> Job:
        """One cell of this profile with these levers."""
        cell = Cell(
            dataset=self._mnist,
            architecture=Component(name=network),
            optimizer=optimizer,
            batch_size=batch_size,
            device=self.device.type,
            seed=0,
            training=Training(epochs=epochs),
            execution=Component(name=profile, options=levers),
        )
        data = Data(sha256=self._prepared.sha256)
        return Job(cell=cell, record_id="probe", data_directory=str(self._prepared.directory), data=data)

    def trainee(self, job: Job) -> Trainee:
        """Set up, its choices made, nothing warmed up."""
        return choose(job, make_trainee(job, self.device))


def facts(cells: Cells, out: Path) -> Iterator[Question]:
    """What the machine is, and single calls of torch's that our CUDA code relies on."""
    device, on_cuda = cells.device, cells.device.type == "cuda"
    yield "environment", lambda: asdict(machine.describe_environment(device.type))
    yield "first work on the device, from process start", lambda: _first_work(device)
    yield "packages", _packages
    yield "switches", lambda: _switches(cells)
    yield "slowdowns so far", lambda: {"seconds": devices.slowed_seconds(device)}
    yield "memory", lambda: {"peak": devices.peak_memory(device)}
    for name in ("sgd", "adam", "adagrad", "rmsprop", "muon"):
        yield f"update of {name}", lambda name=name: _update(name, device)  # type: ignore[misc]
    if on_cuda:
        yield "a graph is captured and replayed", lambda: _graph(device)
        yield "a graph that waits for the device is refused", lambda: _refused_graph(device)  # may spoil the process


def gates(cells: Cells, out: Path) -> Iterator[Question]:
    """The equivalence gate: all that it measured, not only what failed."""
    for network, optimizer, batch_size in (
        ("mlp", MOMENTUM, 512), ("lenet5", MOMENTUM, 512), ("speedrun", ADAM, 256),
        ("resnet", MOMENTUM, 512), ("cnn", ADAM, 512), ("lenet5", MOMENTUM, 8192),
    ):  # fmt: skip
        yield f"{network} {optimizer.name} {batch_size}", _gate(cells, cells.job(network, optimizer, batch_size))
    for name in ("muon", "adagrad", "rmsprop", "nadam"):
        job = cells.job("mlp", Component(name=name, options={"lr": 0.001}), 512)
        yield f"mlp {name} 512", _gate(cells, job)
    for precision in ("tf32", "bf16", "fp16"):
        yield f"lenet5 {precision}", _gate(cells, cells.job("lenet5", MOMENTUM, 512, precision=precision))
    yield "mlp compiled", _gate(cells, cells.job("mlp", MOMENTUM, 512, compile=True))


def rates(cells: Cells, out: Path) -> Iterator[Question]:
    """Whole cells, and what each lever of a GPU does to them; what takes longest is asked last."""
    for levers in (
        {}, {"convolutions": "cudnn"}, {"profile": "plain"}, {"precision": "tf32"}, {"benchmark": True},
        {"memory_format": "channels_last"}, {"graph": False}, {"compile": True},
    ):  # fmt: skip
        said = " ".join(f"{lever}={value}" for lever, value in levers.items())
        for network, optimizer, batch_size, epochs in _rated(cells.device):
            if (network == "mlp" and "convolutions" in levers) or (network != "mlp" and "profile" in levers):
                continue
            job = cells.job(network, optimizer, batch_size, 1 if "profile" in levers else epochs, **levers)
            name = f"{network} {batch_size} {said}".strip()
            path = out / "records" / f"{name.replace(' ', '_')}.json"
            yield name, lambda job=job, path=path: _rate(job, path)  # type: ignore[misc]


def bare(cells: Cells, out: Path) -> Iterator[Question]:
    """What the measuring costs: epochs as a record has them, beside epochs of the same steps in a bare loop."""
    for network, optimizer, batch_size, epochs in _rated(cells.device):
        job = cells.job(network, optimizer, batch_size, max(2, epochs // 2))
        yield f"{network} {batch_size}", lambda job=job: _beside_bare(cells, job)  # type: ignore[misc]


def profile(cells: Cells, out: Path) -> Iterator[Question]:
    """Where the time of a step goes: torch's profiler, a table a network."""
    for network, optimizer, batch_size, _ in _rated(cells.device):
        for graph in (True, False):
            job = cells.job(network, optimizer, batch_size, graph=graph)
            name = f"{network} {batch_size}{'' if graph else ' eager'}"
            path = out / "profiles" / f"{name.replace(' ', '_')}.txt"
            yield name, lambda job=job, path=path: _profile(cells, job, path)  # type: ignore[misc]


def _rated(device: torch.device) -> list[tuple[str, Component, int, int]]:
    """Networks, optimizers, batch sizes and epochs; on a CPU the smallest, since there only the questions are tried."""
    if device.type == "cpu":
        return [("mlp", MOMENTUM, 64, 1)]
    return [("lenet5", MOMENTUM, 8192, 40), ("mlp", MOMENTUM, 64, 4), ("speedrun", ADAM, 256, 1)]


PARTS = {"facts": facts, "gates": gates, "rates": rates, "bare": bare, "profile": profile}


def _first_work(device: torch.device) -> Answer:
    torch.ones(1, device=device).item()
    return {"seconds": time.perf_counter() - STARTED}


def _switches(cells: Cells) -> Answer:
    make_trainee(cells.job("mlp", MOMENTUM, 512), cells.device)  # sets them
    return {
        "tf32 matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32 cudnn": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.backends.cudnn.deterministic,
        "benchmark": torch.backends.cudnn.benchmark,
    }


def _packages() -> Answer:
    return {name: find_spec(name) is not None for name in OPTIONAL}


def _update(name: str, device: torch.device) -> Answer:
    model = torch.nn.Linear(64, 32).to(device)
    update = Update(model, Component(name=name, options={"lr": 0.01}), fused=True)
    update.gradients = [torch.ones_like(each) for each in model.parameters()]
    update(1.0)
    return {"fused": update.fused, "finite": all(bool(each.isfinite().all()) for each in model.parameters())}


def _graph(device: torch.device) -> Answer:
    source = torch.ones(1000, device=device)
    graph, (doubled,) = record_cuda_graph(lambda: [source * 2])
    source.fill_(3)
    graph.replay()
    return {"right": bool((doubled == 6).all()), "held": devices.peak_memory(device)}


def _refused_graph(device: torch.device) -> Answer:
    source = torch.ones(1, device=device)
    try:
        record_cuda_graph(lambda: [source * source.item()])
    except CaptureFailed as refusal:
        return {"refused": True, "said": str(refusal)}
    return {"refused": False}


def _gate(cells: Cells, job: Job) -> Callable[[], Answer]:
    def measure() -> Answer:
        trainee = cells.trainee(job)

        def make_path(prepare: equivalence.Prepare) -> TrainingPath:
            fresh = trainee.anew(prepare=prepare)
            warm_up(fresh, job.cell.seed)
            return TimedPath(fresh)

        levers, folder = trainee.levers.to_json(), Path(job.data_directory)
        findings, random = equivalence.compare(job.cell, levers, folder, make_path, asks=trainee.update.asks)
        return {
            "answer": equivalence.verdict(findings, str(levers["precision"]), random=random),
            "failed": [str(each) for each in findings if not each.passed],
            "errors": {each.gate: [each.error, each.tolerance] for each in findings if each.tolerance},
            "stepped_aside": levers["stepped_aside"],
        }

    return measure


def _rate(job: Job, kept: Path) -> Answer:
    equivalence.check_trainee = lambda job, trainee: "not checked"  # the gate is a part of its own
    record = train.train_cell(job, on_epoch=lambda _: None, process_started=time.perf_counter())
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(dump(record), encoding="utf-8")
    each = [epoch.examples / epoch.train_seconds for epoch in record.epochs]
    assert record.timing is not None and record.memory is not None and record.noise is not None
    return {
        "examples_per_second": sum(e.examples for e in record.epochs) / record.timing.train_seconds,
        "first_epoch": each[0],
        "last_epoch": each[-1],
        "test_accuracy": record.epochs[-1].test_accuracy,
        "status": record.status,
        **asdict(record.timing),
        **asdict(record.memory),
        **asdict(record.noise),
        "stepped_aside": record.execution_resolved["stepped_aside"],
    }


def _beside_bare(cells: Cells, job: Job) -> Answer:
    trainee = cells.trainee(job)
    warm_up(trainee, 0)
    watch = Stopwatch(devices.synchronizer(cells.device))
    rates: dict[str, list[float]] = {"measured": [], "bare": []}
    for number in range(1, job.cell.training.epochs + 1):
        for side in ("measured", "bare") if number % 2 else ("bare", "measured"):
            if side == "measured":
                epoch, _, _ = train._one_epoch(trainee, number, watch, STARTED, InterferenceMeter())
                rates[side].append(epoch.examples / epoch.train_seconds)
            else:
                rates[side].append(_bare_epoch(trainee, number, watch.synchronize))
                evaluate(trainee, *trainee.test)  # the other side finds caches as the last evaluation left them
    return {**rates, "ratio": median(rates["measured"]) / median(rates["bare"])}


def _bare_epoch(trainee: Trainee, number: int, synchronize: Callable[[], None]) -> float:
    trainee.model.train()
    examples, size = 0, trainee.batches.batch_size
    synchronize()
    start = time.perf_counter()
    for inputs, labels in together(trainee.batches.epoch(number), trainee):
        trainee.take_steps(inputs, labels, [trainee.factors[0]] * -(-len(labels) // size))
        examples += len(labels)
    synchronize()
    return examples / (time.perf_counter() - start)


def _profile(cells: Cells, job: Job, path: Path) -> Answer:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    trainee, on_cuda = cells.trainee(job), cells.device.type == "cuda"
    warm_up(trainee, 0)
    batches = iter(trainee.batches.epoch(1))
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_cuda else [ProfilerActivity.CPU]
    with recorded(activities=activities) as seen:
        for _ in range(PROFILED_STEPS):
            inputs, labels = next(batches)
            trainee.take_steps(inputs, labels, trainee.factors[:1] * trainee.batches.together)
        devices.synchronizer(cells.device)()
    path.parent.mkdir(parents=True, exist_ok=True)
    order = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    path.write_text(seen.key_averages().table(sort_by=order, row_limit=60, max_name_column_width=90), encoding="utf-8")
    return {"steps": PROFILED_STEPS, "table": path.name}


def main() -> int:
    """Ask the questions of one part, until its seconds are used up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0, help="no question is asked after so many")
    given = parser.parse_args()
    out = Path(os.environ.get("OUT", "out"))
    out.mkdir(parents=True, exist_ok=True)
    lines = out / f"{given.part}.jsonl"
    answered = {json.loads(line)["what"] for line in lines.read_text().splitlines()} if lines.exists() else set()
    for what, answer in PARTS[given.part](Cells(given.device), out):
        if what in answered:
            continue
        if time.perf_counter() - STARTED > given.seconds:
            print(f"{given.part}: the time is up before `{what}`")
            return 0
        line = {"what": what, "device": given.device, **_answered(answer)}
        text = json.dumps(line, default=str)
        print(text[:400], flush=True)
        with lines.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        if not _works(given.device):
            return SPOILT
    return 0


def _answered(answer: Callable[[], Answer]) -> Answer:
    start = time.perf_counter()
    try:
        found = {"ok": True, **answer()}
    except Exception as error:  # whatever goes wrong is what the probe is for
        found = {"ok": False, "error": repr(error)[:500], "stack": traceback.format_exc()[-2500:]}
    return {**found, "wall_seconds": time.perf_counter() - start}


def _works(device: str) -> bool:
    """Whether the process can still use its device: an error of CUDA's stays."""
    try:
        torch.ones(1, device=device).add_(1).item()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
