"""Trains the first cell of a recipe's grid in this process, with mnistbench, and prints one line of JSON.

    python benchmarks/one_cell.py mlp_sigmoid_sgd [--epochs 1] [--seed 0] [--set execution=plain] [--beside-bare]

With --beside-bare, epochs that mnistbench measures alternate with epochs of the same steps on the same tensors in a
bare loop, in ABBA order: what the measuring costs, without the differences between two processes.
"""

from __future__ import annotations

import argparse
import json
import time

STARTED = time.perf_counter()

import dataclasses
from pathlib import Path

import torch

from mnistbench.cell import Cell
from mnistbench.data import datasets
from mnistbench.grid.grid import Grid
from mnistbench.results.records import Data
from mnistbench.train.clocks import InterferenceMeter, Stopwatch, keep_allocated
from mnistbench.train.evaluate import evaluate
from mnistbench.train.job import Job
from mnistbench.train.setup import Trainee, make_trainee
from mnistbench.train.train import _one_epoch, train_cell
from mnistbench.train.warmup import choose, warm_up

GRIDS = Path(__file__).parents[1] / "mnistbench" / "grid" / "ready"


def first_job(recipe: str, overrides: list[str], epochs: int, seed: int) -> Job:
    """The job of the recipe's first cell, of this length and seed."""
    grid = Grid.load(GRIDS / f"{recipe}.yaml", overrides=overrides)
    prepared = datasets.prepare(grid.dataset)
    cell: Cell = grid.cells(prepared.component, prepared.spec.train_examples, ["cpu"])[0]
    cell = dataclasses.replace(cell, seed=seed, training=dataclasses.replace(cell.training, epochs=epochs))
    return Job(
        cell=cell,
        record_id="benchmark",
        data_directory=str(prepared.directory),
        data=Data(sha256=prepared.sha256, fallback=prepared.fallback),
    )


def with_mnistbench(job: Job) -> dict[str, object]:
    """Train as a run does."""
    started = time.perf_counter()
    record = train_cell(job, on_epoch=lambda epoch: None, process_started=started)
    assert record.timing and record.model
    return {
        "train_seconds": record.timing.train_seconds,
        "examples": sum(epoch.examples for epoch in record.epochs),
        "test_accuracy": record.epochs[-1].test_accuracy,
        "flops_per_example": record.model.train_flops_per_example,
        "equivalence": record.checks.get("equivalence"),
        "clocks": dataclasses.asdict(record.timing),
        "outside_seconds": time.perf_counter() - started,
        "execution_resolved": record.execution_resolved,
    }


def beside_bare(job: Job) -> dict[str, list[float]]:
    """Examples/s of each epoch, as they stand in a record and as a bare loop's own clock has them."""
    trainee = choose(job, make_trainee(job, torch.device("cpu")))
    warm_up(trainee, job.cell.seed)
    watch, meter = Stopwatch(), InterferenceMeter()
    rates: dict[str, list[float]] = {"measured": [], "bare": []}
    for number in range(1, job.cell.training.epochs + 1):
        for side in ("measured", "bare") if number % 2 else ("bare", "measured"):
            if side == "measured":
                epoch, _, _ = _one_epoch(trainee, number, watch, STARTED, meter)
                rates[side].append(epoch.examples / epoch.train_seconds)
            else:
                rates[side].append(_bare_epoch(trainee, number))
                evaluate(trainee, *trainee.test)  # the other side finds caches as the last evaluation left them
    return rates


def _bare_epoch(trainee: Trainee, number: int) -> float:
    trainee.model.train()
    factor, examples = trainee.factors[0], 0
    start = time.perf_counter()
    for inputs, labels in trainee.batches.epoch(number):
        trainee.step.gradients(inputs, labels)
        trainee.update(factor)
        examples += len(labels)
    return examples / (time.perf_counter() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--beside-bare", action="store_true")
    arguments = parser.parse_args()
    keep_allocated()
    job = first_job(arguments.recipe, arguments.overrides, arguments.epochs, arguments.seed)
    print(json.dumps(beside_bare(job) if arguments.beside_bare else with_mnistbench(job)))
