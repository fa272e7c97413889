"""Steps of the five image recipes: the tutorial's way, a bare loop over our steps, and one epoch with the harness.

`make benchmark` pairs whole processes for the published table (versus.py); this is the same under pytest-benchmark, to
watch single steps, and in CI once, for breakage only.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from one_cell import first_job
from plain_loops import RECIPES

from mnistbench.train.clocks import InterferenceMeter, Stopwatch
from mnistbench.train.setup import Trainee, make_trainee
from mnistbench.train.train import _one_epoch
from mnistbench.train.warmup import choose, warm_up

STEPS = 5


def trainee_of(recipe: str) -> Trainee:
    job = first_job(recipe, [], epochs=1, seed=0)
    trainee = choose(job, make_trainee(job, torch.device("cpu")))
    warm_up(trainee, seed=0)
    trainee.model.train()
    return trainee


@pytest.mark.parametrize("recipe", RECIPES)
def bench_eager_steps(benchmark: Any, recipe: str) -> None:
    """What a tutorial's loop does between two batches; its DataLoader left out."""
    tutorial = RECIPES[recipe]
    model = tutorial.network()
    optimizer = tutorial.optimizer(model.parameters())
    images = torch.rand(tutorial.batch_size, 1, 28, 28)
    labels = torch.randint(0, 10, (tutorial.batch_size,))

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            tutorial.loss(model(images), labels).backward()
            optimizer.step()

    benchmark.extra_info["examples"] = STEPS * tutorial.batch_size
    benchmark(steps)


@pytest.mark.parametrize("recipe", RECIPES)
def bench_fast_steps(benchmark: Any, recipe: str) -> None:
    """The same number of steps from bytes in memory, as `fast` does them."""
    trainee = trainee_of(recipe)
    size = trainee.batches.batch_size
    inputs, labels = trainee.batches.inputs[:size], trainee.batches.labels[:size]  # type: ignore[attr-defined]

    def steps() -> None:
        for _ in range(STEPS):
            trainee.take_step(inputs, labels, trainee.factors[0])

    benchmark.extra_info["examples"] = STEPS * size
    benchmark(steps)


def bench_epoch_with_harness(benchmark: Any) -> None:
    """A whole measured epoch of the smallest network: order, batches, clocks, counters, evaluation."""
    trainee = trainee_of("mlp_sigmoid_sgd")
    benchmark.pedantic(lambda: _one_epoch(trainee, 1, Stopwatch(), 0.0, InterferenceMeter()), rounds=3, warmup_rounds=1)
