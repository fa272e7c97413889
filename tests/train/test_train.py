"""Training one cell: what is measured, what is promised bit for bit, and what ends early."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mnistbench.axes.architectures import ARCHITECTURES
from mnistbench.axes.execution import levers_of
from mnistbench.cell import Cell, Component, Training
from mnistbench.data import arrays, datasets
from mnistbench.errors import UserError
from mnistbench.results.records import CellRecord, Data, EpochMeasurement
from mnistbench.train import train as training
from mnistbench.train import warmup
from mnistbench.train.energy import EnergyCounter, EnergyMeter
from mnistbench.train.job import Job
from mnistbench.train.setup import make_trainee
from mnistbench.train.train import train_cell

MakeJob = Callable[..., Job]


@pytest.fixture(scope="session")
def few_digits(digit_images: Component, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 3,000 and 500 examples, as prepared data."""
    whole = arrays.load(datasets.prepare(digit_images).directory)
    spec = dataclasses.replace(whole.spec, train_examples=3000, test_examples=500)
    folder = tmp_path_factory.mktemp("few_digits")
    for name, array in whole.items():
        np.save(folder / f"{name}.npy", array[: 3000 if name.startswith("train") else 500])
    (folder / arrays.DESCRIPTION).write_text(json.dumps({"spec": spec.to_json()}))
    return folder


@pytest.fixture
def make_job(few_digits: Path, cell: Cell) -> MakeJob:
    """A job of the small cell, with some settings replaced."""

    def make(**changes: object) -> Job:
        return Job(
            cell=dataclasses.replace(cell, **changes),  # type: ignore[arg-type]
            record_id="test",
            data_directory=str(few_digits),
            data=Data(sha256="few digits"),
        )

    return make


def train(job: Job, epochs: list[EpochMeasurement] | None = None) -> CellRecord:
    return train_cell(job, on_epoch=(epochs if epochs is not None else []).append, process_started=time.perf_counter())


def test_every_example_is_trained_once_with_the_last_partial_batch(make_job: MakeJob) -> None:
    """3,000 examples in batches of 512 are 6 steps, the last of 440 (rule 7)."""
    record = train(make_job())
    assert (record.epochs[0].examples, record.epochs[0].steps) == (3000, 6)


def test_energy_is_of_the_timed_region_alone(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that the training loop moves by 3 J and the evaluation by 100."""
    joules = [0.0]

    def adding(amount: float, function: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            joules[0] += amount
            return function(*arguments)

        return run

    monkeypatch.setattr(training, "energy_meter", lambda *_: EnergyMeter("made", [EnergyCounter(lambda: joules[0])]))
    monkeypatch.setattr(training, "_train_epoch", adding(3.0, training._train_epoch))
    monkeypatch.setattr(training, "evaluate", adding(100.0, training.evaluate))
    record = train(make_job(training=Training(epochs=2)))
    assert [epoch.train_joules for epoch in record.epochs] == [3.0, 3.0]
    assert record.environment is not None
    assert record.environment.energy_source == "made"


def test_the_first_four_clocks_add_to_at_most_the_wall(make_job: MakeJob) -> None:
    """Rule 5."""
    timing = train(make_job()).timing
    assert timing is not None
    parts = [timing.setup_seconds, timing.warmup_seconds, timing.train_seconds, timing.eval_seconds]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= timing.wall_seconds


def test_the_training_clock_is_the_sum_of_its_epochs(make_job: MakeJob) -> None:
    record = train(make_job(training=Training(epochs=2)))
    assert record.timing is not None
    assert sum(epoch.train_seconds for epoch in record.epochs) == pytest.approx(record.timing.train_seconds)
    assert sum(epoch.eval_seconds for epoch in record.epochs) == pytest.approx(record.timing.eval_seconds)


@pytest.mark.slow
def test_evaluation_is_off_the_training_clock(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that sleeps adds nothing to the seconds of training (rule 4)."""
    from mnistbench.train import train as module

    real = module.evaluate

    def slow(*arguments: object) -> object:
        time.sleep(1.5)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "evaluate", slow)
    epoch = train(make_job(batch_size=1000)).epochs[0]
    assert epoch.eval_seconds >= 1.5
    assert epoch.cold_seconds >= epoch.eval_seconds + epoch.train_seconds


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["fast", "plain"])
def test_the_same_cell_twice_gives_the_same_bits(make_job: MakeJob, profile: str) -> None:
    """Losses, accuracies and weights are equal to the last bit on the CPU, for equal choices."""
    job = make_job(execution=Component(name=profile), batch_size=1000)
    first = train(job)
    second = train(dataclasses.replace(job, resolved=first.execution_resolved))
    assert first.model is not None and second.model is not None
    assert first.model.weights_sha256 == second.model.weights_sha256
    assert first.epochs[0].train_loss == second.epochs[0].train_loss
    assert first.epochs[0].test_loss == second.epochs[0].test_loss


def test_another_seed_gives_other_weights(make_job: MakeJob) -> None:
    records = [train(make_job(seed=seed, batch_size=1000)) for seed in (0, 1)]
    assert len({record.model.weights_sha256 for record in records if record.model}) == 2


def test_the_clock_does_not_change_with_the_wall_clock(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps back by a day leaves every duration positive."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    record = train(make_job(batch_size=1000))
    assert record.timing is not None and record.timing.train_seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam", "rmsprop"])
def test_warm_up_leaves_no_trace(make_job: MakeJob, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training after warm-up equals training without it, momentum, dropout and all (rule 6)."""
    options = {"lr": 0.01, "momentum": 0.9} if optimizer == "sgd" else {"lr": 0.001}
    job = make_job(
        architecture=Component(name="cnn", options={"channels": [4]}),
        optimizer=Component(name=optimizer, options=options),
        batch_size=1000,
    )
    with_warm_up = train(job)
    monkeypatch.setattr(warmup, "_throw_away_steps", lambda trainee: None)
    without = train(dataclasses.replace(job, resolved=with_warm_up.execution_resolved))
    assert with_warm_up.model is not None and without.model is not None
    assert with_warm_up.model.weights_sha256 == without.model.weights_sha256


def test_a_loss_that_is_not_finite_ends_the_epoch_as_diverged(make_job: MakeJob) -> None:
    """The step is said, the epoch ends early, and no NaN is kept."""
    job = make_job(optimizer=Component(name="sgd", options={"lr": 1e20}), batch_size=16, training=Training(epochs=3))
    record = train(job)
    assert record.status == "diverged"
    assert record.error is not None and record.error.step is not None and record.error.step <= 100
    assert len(record.epochs) == 1
    assert record.epochs[0].steps < math.ceil(3000 / 16)
    assert record.epochs[0].train_loss is None and record.epochs[0].train_accuracy is None
    json.dumps(record.to_json(), allow_nan=False)


def test_training_stops_at_the_target_where_it_is_asked_to(make_job: MakeJob) -> None:
    stopping = Training(epochs=5, target_accuracy=0.05, stop_at_target=True)
    assert len(train(make_job(training=stopping)).epochs) == 1
    going_on = Training(epochs=2, target_accuracy=0.05)
    assert len(train(make_job(training=going_on)).epochs) == 2


def test_validation_examples_are_held_out_and_measured(make_job: MakeJob) -> None:
    record = train(make_job(training=Training(epochs=1, validation_examples=500)))
    assert record.epochs[0].examples == 2500
    assert record.epochs[0].validation_accuracy is not None


def test_the_held_out_examples_are_the_same_for_every_seed(make_job: MakeJob) -> None:
    held = []
    for seed in (0, 1):
        job = make_job(seed=seed, training=Training(epochs=1, validation_examples=100))
        trainee = make_trainee(job, torch.device("cpu"))
        assert trainee.held_out is not None
        held.append(trainee.held_out[0])
    assert torch.equal(*held)


def test_a_batch_larger_than_the_data_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match=r"batch_size 3001 is larger than the 3000 training examples.*`full`"):
        train(make_job(batch_size=3001))


def test_the_record_says_what_was_used(make_job: MakeJob) -> None:
    record = train(make_job())
    assert record.execution_resolved["data"] == "resident"
    assert record.execution_resolved["step"] == "written"
    assert record.model is not None
    assert record.model.parameters == sum(
        p.numel() for p in make_trainee(make_job(), torch.device("cpu")).model.parameters()
    )
    assert record.model.train_flops_per_example and record.model.train_flops_per_example > 1e6
    assert record.model.confusion is not None and sum(map(sum, record.model.confusion)) == 500
    assert record.memory is not None and record.memory.process_peak_bytes
    assert CellRecord.from_json(record.to_json()) == record


def test_batchnorm_keeps_its_batch_whole_and_the_record_says_so(make_job: MakeJob) -> None:
    job = make_job(architecture=Component(name="speedrun"), batch_size=1000)
    trainee = make_trainee(job, torch.device("cpu"))
    assert trainee.levers.chunk == 0
    assert "BatchNorm" in trainee.levers.stepped_aside["chunk"]


def test_choices_are_measured_anew_for_a_network_that_changed_under_its_name(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of ours does between two releases."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    kernels, flops = [], []
    for hidden in (), (30,):
        monkeypatch.setitem(ARCHITECTURES, "logistic", functools.partial(ARCHITECTURES["mlp"], hidden=hidden))
        job = make_job(architecture=Component(name="logistic"))
        kernels.append(warmup.choose(job, make_trainee(job, torch.device("cpu"))).levers.kernels)
        record = train(job)
        assert record.status == "finished" and record.model
        flops.append(record.model.train_flops_per_example)
    assert len(kernels[1] or []) == len(kernels[0] or []) + 2
    assert flops[0] != flops[1]


def test_levers_that_need_a_gpu_step_aside_on_the_cpu(make_job: MakeJob) -> None:
    job = make_job(execution=Component(name="fast", options={"precision": "fp16"}))
    trainee = make_trainee(job, torch.device("cpu"))
    assert trainee.levers.precision == "fp32"
    assert "CUDA" in trainee.levers.stepped_aside["precision"]


@pytest.mark.slow
def test_a_full_batch_passes_the_gate(make_job: MakeJob) -> None:
    """One batch of all is shuffled like any other: sums in another order round differently."""
    assert train(make_job(batch_size=3000)).checks["equivalence"] == "passed"


def test_bf16_uses_autograd_and_says_so(make_job: MakeJob) -> None:
    record = train(make_job(execution=Component(name="fast", options={"precision": "bf16"}), batch_size=1000))
    assert record.execution_resolved["precision"] == "bf16"
    assert "fp32" in record.execution_resolved["stepped_aside"]["step"]
    assert record.checks["equivalence"] == "outcome untested"


def test_profiles_are_what_they_are_called() -> None:
    plain, fast = levers_of(Component(name="plain")), levers_of(Component(name="fast"))
    assert (plain.data, plain.step, plain.fused, plain.allocator, plain.precision) == (
        "loader", "autograd", False, "default", "fp32",
    )  # fmt: skip
    assert (fast.data, fast.step, fast.fused, fast.allocator, fast.precision) == (
        "resident", "written", True, "keep", "fp32",
    )  # fmt: skip


def test_plain_and_fast_see_the_same_examples_in_the_same_order(make_job: MakeJob) -> None:
    orders = []
    for profile in ("plain", "fast"):
        trainee = make_trainee(make_job(execution=Component(name=profile), batch_size=700), torch.device("cpu"))
        orders.append([labels for _, labels in trainee.batches.epoch(1)])
    assert all(torch.equal(a, b) for a, b in zip(*orders, strict=True))


@pytest.mark.parametrize("which", ["best", "last", "all"])
def test_kept_models_are_written_where_the_parent_wants_them(make_job: MakeJob, tmp_path: Path, which: str) -> None:
    job = make_job(training=Training(epochs=2, save_model=which), batch_size=1000)  # type: ignore[arg-type]
    record = train(dataclasses.replace(job, weights_directory=str(tmp_path)))
    assert record.model is not None
    assert sorted(record.model.weights) == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(record.model.weights) == (3 if which == "all" else 1)
