"""Between set-up and the first timed step: what levers leave to measurement, and steps that leave no trace."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mnistbench import reproducibility
from mnistbench.training.batches import ResidentBatches
from mnistbench.training.trainee import Trainee

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.worker import Job

WARMUP_STEPS = 5
LARGE_BATCH = 4096
"""From here on one step is long enough to warm caches and threads."""


def choose(job: Job, trainee: Trainee) -> Trainee:
    """Settle what the levers leave to measurement; measured once per machine, build, network and batch size."""
    import torch

    from mnistbench.training.choices import remembered
    from mnistbench.training.steps.written import WrittenStep

    levers, cell = trainee.levers, job.cell
    if job.resolved:
        if isinstance(trainee.step, WrittenStep):
            from mnistbench.training.steps.tuning import apply

            apply(trainee.step, int(levers.chunk), levers.kernels or [])
        return trainee
    if not isinstance(trainee.step, WrittenStep):
        memory_format = "contiguous" if levers.memory_format == "auto" else levers.memory_format
        chunk = 0 if levers.chunk == "auto" else levers.chunk
        return dataclasses.replace(
            trainee, levers=dataclasses.replace(levers, memory_format=memory_format, chunk=chunk)
        )
    from mnistbench.training.steps.tuning import apply, tune

    step = trainee.step
    question = {
        "machine": reproducibility.machine_id(),
        "torch": torch.__version__,
        "layers": str(trainee.model),
        "choices": [{key: list(values) for key, values in block.choices().items()} for block in step.blocks],
        "input_shape": list(trainee.test[0].shape[1:]),
        "batch_size": cell.batch_size,
        "loss": cell.training.loss,
        "threads": torch.get_num_threads(),
        "chunk": levers.chunk,
    }

    def measure() -> dict[str, Any]:
        inputs, labels = _first_batch(trainee, cell.batch_size)
        return tune(step, inputs, labels, chunk=None if levers.chunk == "auto" else levers.chunk)

    answer = remembered(question, measure)
    apply(step, answer["chunk"], answer["kernels"])
    settled = dataclasses.replace(levers, chunk=answer["chunk"], kernels=answer["kernels"], memory_format="contiguous")
    return dataclasses.replace(trainee, levers=settled)


def _first_batch(trainee: Trainee, batch_size: int) -> tuple[Tensor, Tensor]:
    """The first examples of the training data, whatever the batches come from; never a batch that training will see."""
    batches = trainee.batches
    if isinstance(batches, ResidentBatches):
        return batches.inputs[:batch_size], batches.labels[:batch_size]
    return next(iter(batches.epoch(0)))


def warm_up(trainee: Trainee, seed: int) -> None:
    """A few steps with throw-away state, so that the first timed step is like the others; no trace is left (rule 6).

    Everything is put back in place, since captured graphs and flat weights hold addresses.
    """
    import torch

    before = {name: tensor.detach().clone() for name, tensor in trainee.model.state_dict().items()}
    _throw_away_steps(trainee)
    with torch.no_grad():
        for name, tensor in trainee.model.state_dict().items():
            tensor.copy_(before[name])
    trainee.update.forget()
    reproducibility.seed_everything(reproducibility.derived_seed(seed, "training"))


def _throw_away_steps(trainee: Trainee) -> None:
    """Whole batches, and one of the size of the last, partial one: kernels and graphs are made for each size."""
    batches = trainee.batches
    whole = min(batches.batch_size, batches.examples)
    inputs, labels = _first_batch(trainee, whole)
    sizes = [whole] * (WARMUP_STEPS if whole < LARGE_BATCH else 1)
    if last := batches.examples % whole:
        sizes.append(last)
    for size in sizes:
        trainee.step.gradients(inputs[:size], labels[:size])
        trainee.step.update(trainee.learning_rates[0])
