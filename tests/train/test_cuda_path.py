"""What the CUDA path does, as far as it can be seen without a GPU: the device is played, an import refused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from synthetic import make_cell, make_environment, make_record
from torch.optim import adagrad
from torch.utils._python_dispatch import TorchDispatchMode

from mnistbench.axes import devices, optimizers
from mnistbench.axes.execution import Levers, fast, fit
from mnistbench.cell import Cell, Component, Training
from mnistbench.data import datasets
from mnistbench.grid.grid import Grid
from mnistbench.report.frame import results_frame
from mnistbench.report.sections.devices import device_speedups
from mnistbench.results.merging import one_per_build
from mnistbench.results.records import CellRecord, Data
from mnistbench.run.executors import ProcessExecutor
from mnistbench.run.worker import environment_of
from mnistbench.train import batches as batches_module
from mnistbench.train import machine as reproducibility
from mnistbench.train import probe, train, warmup
from mnistbench.train.batches import ResidentBatches
from mnistbench.train.epoch import take_steps
from mnistbench.train.equivalence import gates
from mnistbench.train.job import Job
from mnistbench.train.setup import _levers_that_fit, _set_backends, make_trainee
from mnistbench.train.steps.cuda_graph import CaptureFailed, record_cuda_graph
from mnistbench.train.steps.update import Update

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_script_for_a_gpu_stops_where_there_is_none(tmp_path: Path) -> None:
    """Before it installs or measures anything."""
    command = ["bash", "benchmarks/on_gpu.sh", "data", str(tmp_path), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "torch sees no CUDA device here" in done.stderr


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
    assert update._flat is not None
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


def test_what_a_graph_keeps_counts_as_memory_in_use() -> None:
    """Its activations count as free between replays, and nobody else can have them."""
    segments = [
        {"device": 0, "segment_pool_id": (0, 0), "total_size": 100, "allocated_size": 40},
        {"device": 0, "segment_pool_id": (0, 1), "total_size": 300, "allocated_size": 50},
        {"device": 1, "segment_pool_id": (0, 2), "total_size": 700, "allocated_size": 0},
    ]
    assert devices.held_by_graphs(segments, 0) == 250


@pytest.mark.slow
def test_memory_is_read_before_the_closing_probe(
    digit_images: Component, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe's matrices are larger than a small network."""
    events: list[str] = []
    taken = train.take_probe

    def probe(*arguments: Any) -> Any:
        events.append("probe")
        return taken(*arguments)

    monkeypatch.setattr(train, "take_probe", probe)
    monkeypatch.setattr(devices, "peak_memory", lambda device: events.append("peak"))
    train.train_cell(job_of(digit_images, cell), on_epoch=lambda _: None, process_started=time.perf_counter())
    assert events == ["probe", "peak", "probe"]


def job_of(data: Component, cell: Cell, **changes: Any) -> Job:
    prepared = datasets.prepare(data)
    cell = replace(cell, dataset=prepared.component, training=Training(epochs=1), **changes)
    return Job(cell=cell, record_id="r", data_directory=str(prepared.directory), data=Data(sha256=prepared.sha256))


class Nvml(ModuleType):
    """As much of pynvml as is asked: two counters of nanoseconds, and a GPU that is found by its UUID alone."""

    NVML_PERF_POLICY_THERMAL, NVML_PERF_POLICY_BOARD_LIMIT = 1, 3

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.nanoseconds = {1: 5_000_000, 3: 0}

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1234"
        return uuid

    def nvmlDeviceGetViolationStatus(self, handle: str, policy: int) -> SimpleNamespace:
        return SimpleNamespace(violationTime=self.nanoseconds[policy])

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 700_000


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    played = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", played)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    return played


def test_a_gpu_that_slowed_down_while_it_trained_is_seen(nvml: Nvml) -> None:
    """Slowdowns of before do not count, and one that is over again does."""
    device = torch.device("cuda")
    before = devices.slowed_seconds(device)
    assert before == {"heat": 0.005, "power brake": 0.0}
    assert devices.has_slowed(before, devices.slowed_seconds(device)) is False
    nvml.nanoseconds[3] += 1
    assert devices.has_slowed(before, devices.slowed_seconds(device)) is True


def test_what_nvml_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices.slowed_seconds(torch.device("cuda")) is None
    assert devices.has_slowed(None, None) is None


@pytest.mark.slow
def test_a_slowdown_is_a_flag(digit_images: Component, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([{"heat": 0.0}, {"heat": 0.1}])
    monkeypatch.setattr(devices, "slowed_seconds", lambda device: next(readings))
    job = job_of(digit_images, cell)
    record = train.train_cell(job, on_epoch=lambda _: None, process_started=time.perf_counter())
    assert record.noise is not None and record.noise.gpu_slowdown
    assert "gpu_slowdown" in record.noise.flags


def test_a_record_says_which_gpu_it_was_and_what_drives_it(nvml: Nvml) -> None:
    """The UUID itself stays out of it."""
    environment = reproducibility.describe_environment("cuda")
    assert (environment.device_name, environment.driver, environment.power_limit_watts) == (
        "NVIDIA H100", "580.95", 700.0,
    )  # fmt: skip
    assert environment.cudnn == torch.backends.cudnn.version()
    assert environment.device_id is not None and "1234" not in environment.device_id


def test_a_gpu_whose_driver_says_nothing_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    environment = reproducibility.describe_environment("cuda")
    assert (environment.device_name, environment.device_id, environment.driver) == ("NVIDIA H100", None, None)


def on_gpu(name: str, identity: str | None, device: str = "cuda") -> CellRecord:
    return make_record(make_cell(device=device), environment=make_environment(device_name=name, device_id=identity))


def test_records_of_two_gpus_under_one_machine_id_are_groups_of_their_own() -> None:
    """Two calls for a rented machine may land on an H100 and an H200, and a CPU belongs to neither."""
    cpu = make_record(make_cell(), environment=make_environment())
    frame = results_frame([cpu, on_gpu("H100", "aa"), on_gpu("H200", "bb"), on_gpu("H200", "cc")])
    assert frame["group"].nunique() == 4
    assert frame["group"].str.startswith(frame["group"].iloc[0]).all()


def test_one_gpu_and_two_that_are_asked_for_by_name_stay_with_their_machine() -> None:
    cpu = make_record(make_cell(), environment=make_environment())
    frame = results_frame([cpu, on_gpu("H100", "aa"), on_gpu("H100", "bb", "cuda:1")])
    assert frame["group"].nunique() == 1


def test_the_first_message_of_a_worker_does_not_start_cuda(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds, and belongs to set-up."""

    def started(device: object) -> str:
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "get_device_name", started)
    job = Job(cell=replace(cell, device="cuda"), record_id="r", data_directory="-", data=Data(sha256="d"))
    assert environment_of(job, ask_gpu=False) is not None


@pytest.mark.parametrize("shuffle", [True, False])
def test_warm_up_fetches_its_batches_as_an_epoch_does(shuffle: bool) -> None:
    """And no epoch's batch: the first examples in their order."""
    inputs, labels = torch.arange(10.0).unsqueeze(1), torch.arange(10)
    batches = ResidentBatches(inputs, labels, batch_size=4, seed=0, shuffle=shuffle)

    def operators(fetched: Iterator[Any]) -> set[str]:
        with OperatorNames() as names:
            list(fetched)
        return names.seen

    rehearsed = operators(batches.rehearsal(2))
    assert operators(batches.epoch(1)) - {"aten.randperm", "aten.split_with_sizes"} <= rehearsed | {"aten.detach"}
    assert [wanted.tolist() for _, wanted in batches.rehearsal(2)] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]


class OperatorNames(TorchDispatchMode):
    """Which of torch's operators are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func._overloadpacket))
        return func(*args, **(kwargs or {}))


def test_warm_up_runs_the_loop_of_the_epoch_until_the_clock_has_risen(
    digit_images: Component, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(digit_images, cell, batch_size=100)
    trainee = make_trainee(job, torch.device("cpu"))
    loops: list[int] = []
    monkeypatch.setattr(warmup, "take_steps", lambda *arguments: loops.append(take_steps(*arguments)[3]))
    warmup.warm_up(trainee, 0)
    assert len(loops) == 1 and loops[0] >= warmup.WARMUP_STEPS
    monkeypatch.setitem(warmup.WARMUP_SECONDS, "cpu", 0.5)
    warmup.warm_up(trainee, 0)
    assert len(loops) > 2


def test_a_probe_multiplies_random_numbers_and_leaves_the_cells_seed_alone() -> None:
    before = torch.get_rng_state()
    matrix = probe._random(64, torch.device("cpu"))
    assert matrix.unique().numel() > 4000
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gpu_is_woken_before_its_first_reading_and_copies_more_than_its_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[None] = []
    monkeypatch.setitem(probe.WAKE_SECONDS, "cpu", 0.2)
    probe.take_probe(torch.device("cpu"), "fp32", lambda: waits.append(None))
    woken = len(waits)
    monkeypatch.setitem(probe.WAKE_SECONDS, "cpu", 0.0)
    probe.take_probe(torch.device("cpu"), "fp32", lambda: waits.append(None))
    assert woken > len(waits) - woken
    assert probe.WAKE_SECONDS["cuda"] >= 0.05
    assert probe.COPY_BYTES.get("cuda", probe.LARGE_COPY_BYTES) >= 256 << 20


class MuonPath:
    """Muon as it is, on another device that accumulates in another order, or with a learning rate that is off."""

    def __init__(self, *, turned: bool = False, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        self._turned, self._scale = turned, scale
        self.restore(self.model.state_dict())

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        self.model.load_state_dict(dict(state))
        self._optimizer = optimizers.build_for(Component(name="muon", options={"lr": 0.01}), self.model)
        for group in self._optimizer.param_groups:
            group["lr"] *= self._scale

    def apply(self, gradients: Sequence[torch.Tensor], factor: float) -> None:
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        usual = torch.optim._muon._zeropower_via_newtonschulz

        def other_order(gradient: torch.Tensor, *arguments: Any) -> torch.Tensor:
            order = torch.from_numpy(numpy.random.default_rng(0).permutation(gradient.shape[1]))
            return usual(gradient[:, order], *arguments)[:, order.argsort()]

        if self._turned:
            torch.optim._muon._zeropower_via_newtonschulz = other_order
        try:
            self._optimizer.step()
        finally:
            torch.optim._muon._zeropower_via_newtonschulz = usual


def test_muon_is_judged_by_the_references_own_rounding() -> None:
    reference = MuonPath()
    found = gates.update(reference, MuonPath(turned=True), scheduled=False)  # type: ignore[arg-type]
    assert found.error > gates.UPDATE_TOLERANCE
    assert found.passed
    assert not gates.update(reference, MuonPath(scale=1.02), scheduled=False).passed  # type: ignore[arg-type]


def test_a_device_comparison_with_short_cells_says_that_it_is_not_to_be_published() -> None:
    """Else the fastest device reads as not proven faster."""
    records = [
        make_record(make_cell(device=device, seed=seed), flags=flags, environment=make_environment(), round=seed)
        for device, flags in (("cpu", []), ("cuda", ["short"]))
        for seed in range(3)
    ]
    (note,) = device_speedups(results_frame(records)).notes
    assert note.startswith("3 cells of this comparison trained for under 1 s or 50 steps")
    assert "Do not publish" in note
    assert device_speedups(results_frame([record.with_changes(noise=None) for record in records])).notes == ()


def test_cudnns_choice_among_deterministic_engines_is_a_lever() -> None:
    """Left out of a cell's identity while it is at its default, and on a CPU it steps aside."""
    levers = fast(benchmark=True)
    _set_backends(levers)
    assert torch.backends.cudnn.benchmark and not fast().benchmark
    _set_backends(fast())
    assert not torch.backends.cudnn.benchmark
    old = {name: value for name, value in fast().to_json().items() if name != "benchmark"}
    assert Levers.from_json(old) == fast()
    fitted = fit(levers, device_type="cpu", has_batchnorm=False, why_not_written="", may_mix="")
    assert not fitted.benchmark
    assert fitted.stepped_aside["benchmark"] == "cuDNN needs a CUDA device"
    kept = fit(levers, device_type="cuda", has_batchnorm=False, why_not_written="", may_mix="")
    assert kept.benchmark
    asked = [
        Grid.from_text(GRID + f"execution: {{profile: fast{option}}}\n").cells(Component(name="mnist"), 60_000, ["cpu"])
        for option in ("", ", benchmark: false", ", benchmark: true")
    ]
    assert asked[0][0].cell_id == asked[1][0].cell_id != asked[2][0].cell_id


GRID = """
name: x
dataset: mnist
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [64]
training: {epochs: 1}
speed: off
"""


def test_the_next_epochs_order_is_drawn_while_a_gpu_still_works_on_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of an epoch's own steps, never for an epoch that is not trained, and it is the same order."""
    drawn: list[int] = []

    def noted(examples: int, seed: int, epoch: int, *, shuffle: bool) -> torch.Tensor:
        drawn.append(epoch)
        return reproducibility.order_of_examples(examples, seed, epoch, shuffle=shuffle)

    monkeypatch.setattr(batches_module, "order_of_examples", noted)
    inputs, labels = torch.arange(10.0).unsqueeze(1), torch.arange(10)
    usual = ResidentBatches(inputs, labels, batch_size=4, seed=0, shuffle=True)
    ahead = ResidentBatches(inputs, labels, batch_size=4, seed=0, shuffle=True, drawn_ahead=2)
    expected = [[wanted.tolist() for _, wanted in usual.epoch(number)] for number in (1, 2)]
    drawn.clear()
    assert [wanted.tolist() for _, wanted in ahead.epoch(1)] == expected[0]
    assert drawn == [1, 2]
    assert [wanted.tolist() for _, wanted in ahead.epoch(2)] == expected[1]
    assert drawn == [1, 2]


@pytest.mark.slow
def test_the_probe_for_a_gpu_answers_each_question_once_and_goes_on_behind_an_error(tmp_path: Path) -> None:
    """Tried on the CPU; on a GPU an error of CUDA's ends the process, and the next one takes the rest."""
    command = [sys.executable, "benchmarks/gpu_probe.py", "facts", "--device", "cpu"]
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    (tmp_path / "facts.jsonl").write_text('{"what": "environment", "ok": false, "error": "it failed before"}\n')
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    answers = [json.loads(line) for line in (tmp_path / "facts.jsonl").read_text().splitlines()]
    assert [answer["what"] for answer in answers].count("environment") == 1
    assert len(answers) > 5
    assert [answer["what"] for answer in answers if not answer["ok"]] == ["environment"]


def test_results_of_one_cell_on_two_gpus_are_both_kept_when_folders_are_merged() -> None:
    """And an attempt that was killed, and could not say on which, stands in no result's way."""
    first, second = on_gpu("H100", "aa"), on_gpu("H200", "bb")
    killed = make_record(first.cell, status="killed", environment=make_environment())
    chosen, rest = one_per_build([killed, first, second])
    assert [record.record_id for record in chosen] == [first.record_id, second.record_id]
    assert [record.record_id for record in rest] == [killed.record_id]


def test_waiting_for_a_device_that_has_not_started_does_not_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set-up's clock waits for the device before it begins, and CUDA's start is to lie on it."""
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    wait = devices.synchronizer(torch.device("cuda"))
    wait()
    assert waits == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    wait()
    assert waits == [torch.device("cuda")]
