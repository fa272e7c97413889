"""Records made up for tests of analysis and report: whole grids with noise, failures and hostile names, in no time."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.cell import Cell, Component, Training
from mnistbench.report.frame import KINDS, Record, results_frame
from mnistbench.results.records import (
    RESULTS,
    TRAINING_REVISION,
    CellRecord,
    Data,
    Environment,
    EpochMeasurement,
    Error,
    Memory,
    Model,
    Noise,
    Status,
    Timing,
)

HOSTILE_NAMES = [
    "<script>alert(1)</script>",
    "$x^2$ & \\frac{",
    "_hidden",
    "漢字ネット",
    "\u202egnihton\u202c مرحبا",
    "a|b`c*d_e[f](javascript:alert(1))",
    '"quoted", =SUM(A1)\'',
]
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
EXAMPLES = 60_000


def make_cell(**changes: Any) -> Cell:
    """A cell of the quick grid; `changes` replace its fields, names stand for components."""
    fields: dict[str, Any] = {
        "dataset": Component(name="mnist"),
        "architecture": Component(name="mlp"),
        "optimizer": Component(name="sgd", options={"lr": 0.1}),
        "batch_size": 512,
        "device": "cpu",
        "seed": 0,
        "training": Training(epochs=2, target_accuracy=0.97),
        **changes,
    }
    for axis in ("dataset", "architecture", "optimizer", "schedule", "execution"):
        if isinstance(fields.get(axis), str):
            fields[axis] = Component(name=fields[axis])
    return Cell(**fields)


def make_environment(machine: str = "quiet box", *, device_name: str | None = None, **changes: Any) -> Environment:
    """A machine; its id follows from its name."""
    fields: dict[str, Any] = {
        "machine_id": uuid.uuid5(uuid.NAMESPACE_DNS, machine).hex[:16],
        "machine": machine,
        "os": "Linux 6.12",
        "cpu": "x86-64, 2 cores",
        "physical_cores": 2,
        "logical_cores": 2,
        "memory_bytes": 24 * 2**30,
        "device_name": device_name,
        "python": "3.11.9",
        "torch": "2.15.0+cu132",
        "mnistbench": "0.1.0",
        "git_commit": "0123abc",
        "git_dirty": False,
        "peak_flops": {"cpu/fp32": 3.3e11, "cpu/bf16": 2.2e12, "cuda/fp32": 5e13},
        **changes,
    }
    return Environment(**fields)


def make_record(
    cell: Cell | None = None,
    *,
    status: Status = "finished",
    examples_per_second: float = 30_000.0,
    accuracies: Sequence[float] = (0.96, 0.975),
    startup_seconds: float = 2.0,
    round: int | None = None,
    position: int = 0,
    started_at: datetime = START,
    flags: Sequence[str] = (),
    environment: Environment | None = None,
    equivalence: str | None = "passed",
    **changes: Any,
) -> CellRecord:
    """One record whose epochs follow from a rate and the test accuracies; `changes` replace its fields."""
    cell = cell or make_cell()
    done = list(_epochs(cell, status, examples_per_second, accuracies, startup_seconds, started_at))
    train, evaluated = (sum(getattr(epoch, name) for epoch in done) for name in ("train_seconds", "eval_seconds"))
    wall = startup_seconds + train + evaluated + 0.1
    answered = status in RESULTS
    fields: dict[str, Any] = {
        "record_id": uuid.uuid4().hex,
        "cell_id": cell.cell_id,
        "status": status,
        "cell": cell,
        "execution_resolved": {"precision": cell.execution.options.get("precision", "fp32"), "threads": 2},
        "started_at": started_at.isoformat(),
        "round": cell.seed if round is None else round,
        "position": position,
        "epochs": done,
        "timing": Timing(
            setup_seconds=startup_seconds * 0.8,
            warmup_seconds=startup_seconds * 0.2,
            train_seconds=train,
            eval_seconds=evaluated,
            wall_seconds=wall,
        )
        if answered
        else None,
        "model": Model(
            parameters=61_706,
            train_flops_per_example=2.5e6,
            confusion=_confusion(accuracies[-1]),
            weights_sha256=f"{cell.without_seed()}-{cell.seed}",
        )
        if answered and done
        else None,
        "memory": Memory(process_peak_bytes=600_000_000, device_peak_bytes=None),
        "noise": Noise(foreign_cpu=0.01, steal=0.0, throttled=0.0, flags=list(flags)) if answered else None,
        "checks": {"equivalence": equivalence} if equivalence else {},
        "data": Data(sha256="d1f3", train_examples=EXAMPLES, test_examples=10_000),
        "environment": environment or make_environment(),
        "error": None if status == "finished" else _error(status),
        "training_revision": TRAINING_REVISION,
        **changes,
    }
    return CellRecord(**fields)


def all_runs(records: Iterable[Record], **options: Any) -> pd.DataFrame:
    """`results_frame` with trials and twins, as the exhibits take it."""
    return results_frame(records, kinds=KINDS, **options)


def make_grid_records(
    *,
    architectures: Sequence[str | Component] = ("mlp", "lenet5"),
    optimizers: Sequence[str | Component] = ("sgd", "adam"),
    batch_sizes: Sequence[int] = (64, 512, 8192),
    devices: Sequence[str] = ("cpu",),
    executions: Sequence[str | Component] = ("fast",),
    seeds: int = 3,
    epochs: int = 2,
    target: float | None = 0.97,
    twins: int = 1,
    machines: Sequence[str] = ("quiet box",),
    noise_sd: float = 0.01,
    round_sd: float = 0.02,
    failing: float = 0.0,
    hostile: bool = False,
    started_at: datetime = START,
    seed: int = 0,
) -> list[CellRecord]:
    """A whole grid on each machine, one round a seed, in a shuffled order within the round.

    Args:
        twins: number of cells per device that run a second time in each round (A/A).
        noise_sd, round_sd: relative spread of a run's speed, and of a round's.
        failing: share of cells that end otherwise than finished, every kind in turn.
        hostile: name architectures and optimizers after HOSTILE_NAMES as well.
    """
    random = np.random.default_rng(seed)
    if hostile:
        architectures = [*architectures, *HOSTILE_NAMES[:4]]
        optimizers = [*optimizers, *HOSTILE_NAMES[4:]]
    kinds: list[Status] = ["failed", "timed_out", "killed", "diverged", "out_of_memory", "skipped"]
    records, failed = [], 0
    for machine in machines:
        now = started_at
        plan = list(_grid_cells(architectures, optimizers, batch_sizes, devices, executions, epochs, target))
        for number in range(seeds):
            shift = random.normal(0, round_sd)
            jobs = [(cell, 0) for cell in plan]
            for device in devices:
                jobs += [(cell, 1) for cell in [cell for cell in plan if cell.device == device][:twins]]
            for position, index in enumerate(random.permutation(len(jobs))):
                template, repeat = jobs[index]
                cell = make_cell(**{**_fields_of(template), "seed": number, "repeat": repeat})
                status: Status = "finished"
                if random.random() < failing:
                    status, failed = kinds[failed % len(kinds)], failed + 1
                rate = _rate(cell) * math.exp(shift + random.normal(0, noise_sd))
                record = make_record(
                    cell,
                    status=status,
                    examples_per_second=rate,
                    accuracies=_accuracies(cell, random),
                    startup_seconds=4.0 if cell.device.startswith("cuda") else 0.5,
                    position=position,
                    started_at=now,
                    environment=make_environment(
                        machine, device_name="Fast GPU" if cell.device.startswith("cuda") else None
                    ),
                )
                records.append(record)
                now += timedelta(seconds=record.timing.wall_seconds if record.timing else 5.0)
    return records


def _grid_cells(
    architectures: Sequence[str | Component],
    optimizers: Sequence[str | Component],
    batch_sizes: Sequence[int],
    devices: Sequence[str],
    executions: Sequence[str | Component],
    epochs: int,
    target: float | None,
) -> Iterator[Cell]:
    for architecture in architectures:
        for optimizer in optimizers:
            for batch_size in batch_sizes:
                for device in devices:
                    for execution in executions:
                        yield make_cell(
                            architecture=architecture,
                            optimizer=optimizer,
                            batch_size=batch_size,
                            device=device,
                            execution=execution,
                            training=Training(epochs=epochs, target_accuracy=target),
                        )


def _fields_of(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in Cell.__dataclass_fields__}


def _rate(cell: Cell) -> float:
    """Examples per second that such a cell might reach: GPUs gain with the batch, `plain` loses."""
    rate = 25_000.0 * (2.5 if cell.architecture.name == "mlp" else 1.0)
    if cell.device.startswith("cuda"):
        rate *= cell.batch_size / 128
    return rate * (0.4 if cell.execution.name == "plain" else 1.0) * (1 + 0.3 * len(cell.execution.options))


def _accuracies(cell: Cell, random: np.random.Generator) -> list[float]:
    """Test accuracy by epoch: better with epochs, worse with large batches and without convolutions."""
    last = 0.985 - 0.006 * math.log2(cell.batch_size / 64) / 2 - (0.004 if cell.architecture.name == "mlp" else 0.0)
    epochs = cell.training.epochs
    return [
        float(np.clip(1 - (1 - last) * (epochs / (epoch + 1)) ** 0.7 + random.normal(0, 0.001), 0.1, 0.999))
        for epoch in range(epochs)
    ]


def _epochs(
    cell: Cell,
    status: Status,
    rate: float,
    accuracies: Sequence[float],
    startup_seconds: float,
    started_at: datetime,
) -> Iterator[EpochMeasurement]:
    if status == "skipped" or status == "out_of_memory":
        return
    cold = startup_seconds
    done = accuracies if status == "finished" else accuracies[:1]
    for number, accuracy in enumerate(done, start=1):
        train_seconds, eval_seconds = EXAMPLES / rate, 0.2
        cold += train_seconds + eval_seconds
        lost = status == "diverged"
        yield EpochMeasurement(
            epoch=number,
            examples=EXAMPLES,
            steps=math.ceil(EXAMPLES / cell.batch_size),
            train_seconds=train_seconds,
            eval_seconds=eval_seconds,
            train_loss=None if lost else 3 * (1 - accuracy),
            train_accuracy=0.1 if lost else accuracy - 0.002,
            test_loss=None if lost else 3.2 * (1 - accuracy),
            test_accuracy=0.098 if lost else accuracy,
            cold_seconds=cold,
            ended_at=(started_at + timedelta(seconds=cold)).isoformat(),
        )


def _confusion(accuracy: float, classes: int = 10, examples: int = 1_000) -> list[list[int]]:
    """Every class is mistaken for the next one, the later classes more often."""
    matrix = [[0] * classes for _ in range(classes)]
    for true in range(classes):
        wrong = int((1 - accuracy) * examples * (0.5 + true / classes))
        matrix[true][true] = examples - wrong
        matrix[true][(true + 1) % classes] += wrong
    return matrix


def _error(status: Status) -> Error:
    texts: dict[str, tuple[str, str]] = {
        "failed": ("RuntimeError", "shapes cannot be multiplied (512x400 and 256x120)"),
        "timed_out": ("timeout", "no answer within 600 s"),
        "killed": ("SIGKILL", "ended by signal 9"),
        "diverged": ("FloatingPointError", "loss is not finite"),
        "out_of_memory": ("OutOfMemoryError", "needs 40 GiB, 24 GiB are there"),
        "skipped": ("missing device", "cuda is not on this machine"),
    }
    kind, message = texts[status]
    return Error(
        type=kind,
        message=message,
        step=17 if status == "diverged" else None,
        log="epoch 1\n<b>last words</b>" if status in ("failed", "killed") else "",
        stack='File "train.py", line 3' if status == "timed_out" else "",
    )
