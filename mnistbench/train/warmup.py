"""Between set-up and the first timed step: what is left to measurement or to trying, and steps that leave no trace.

All of it happens on networks of their own (`Trainee.anew`), except where what is prepared belongs to the one network
that is trained: a compiled network, a captured graph.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mnistbench.axes import devices
from mnistbench.files.remembered import remembered
from mnistbench.results import this_machine
from mnistbench.train import machine as reproducibility
from mnistbench.train.batches import ResidentBatches
from mnistbench.train.epoch import take_steps
from mnistbench.train.setup import Trainee
from mnistbench.train.snapshot import Snapshot
from mnistbench.train.steps.cuda_graph import GraphStep
from mnistbench.train.steps.update import wants_closure_alone

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.axes.execution import Levers
    from mnistbench.train.job import Job
    from mnistbench.train.steps.tuning import Kernels
    from mnistbench.train.steps.update import Asks

WARMUP_STEPS = 5
LARGE_BATCH = 4096
"""From here on one step is long enough to warm caches and threads."""
WARMUP_SECONDS = {"cuda": 0.1}
"""A GPU that idled needs some ten milliseconds of work before its clock has risen."""
TRIED_STEPS = 2
"""Some optimizers see at their second step only that something is missing."""


def choose(job: Job, trainee: Trainee) -> Trainee:
    """Settle what the levers leave to measurement, and find out how a plug-in's optimizer wants to be called.

    Kernels and chunk are measured once per machine, build, network and batch size.
    """
    trainee = _as_the_optimizer_asks(job, trainee)
    if job.resolved:
        return trainee
    return _with_kernels(job, trainee)


def _as_the_optimizer_asks(job: Job, trainee: Trainee) -> Trainee:
    """Call a plug-in's optimizer in each of the ways that there are, until one works."""
    from mnistbench.train.steps.written import why_not

    if ":" not in job.cell.optimizer.name:
        return trainee
    if trainee.levers.step == "written" and (reason := why_not(trainee.model)):  # its optimizer put hooks on weights
        trainee = trainee.anew(levers=trainee.levers.without("step", "autograd", reason))
    if trainee.update.clears:
        levers = _eager(trainee.levers, "the optimizer has a `zero_grad` of its own")
        trainee = trainee if levers == trainee.levers else trainee.anew(levers=levers)
    if wants_closure_alone(trainee.update.optimizer):
        return trainee.anew(asks="search")
    first: Exception | None = None
    ways: tuple[Asks, ...] = ("step", "graph of gradients", "closure")
    for asks in ways:
        levers = trainee.levers
        if asks == "graph of gradients":
            levers = _eager(levers, "the optimizer differentiates the gradients")
        rehearsal = trainee.anew(levers=levers, asks=asks)
        rehearsal.model.train()
        try:
            for _ in range(min(TRIED_STEPS, len(trainee.factors))):
                rehearsal.take_step(*_first_batch(trainee, trainee.batches.batch_size), trainee.factors[0])
        except Exception as error:  # whatever a plug-in raises where it is called in another way than it asks for
            first = first or error
            continue
        return trainee if asks == "step" else trainee.anew(levers=levers, asks=asks)
    assert first is not None
    raise first


def _eager(levers: Levers, reason: str) -> Levers:
    if levers.step == "written":
        levers = levers.without("step", "autograd", reason)
    return levers.without("graph", False, reason) if levers.graph else levers


def _with_kernels(job: Job, trainee: Trainee) -> Trainee:
    import torch

    from mnistbench.train.steps.tuning import TURNS, apply, tune, tune_blocks
    from mnistbench.train.steps.written import WrittenStep

    levers, cell, step = trainee.levers, job.cell, trainee.step
    if not isinstance(step, WrittenStep):
        memory_format = "contiguous" if levers.memory_format == "auto" else levers.memory_format
        chunk = 0 if levers.chunk == "auto" else levers.chunk
        settled = dataclasses.replace(levers, memory_format=memory_format, chunk=chunk)
        return _with_convolutions(job, dataclasses.replace(trainee, levers=settled))
    question = {
        **_asked_of(trainee),
        "choices": [{key: list(values) for key, values in block.choices().items()} for block in step.blocks],
        "threads": torch.get_num_threads(),
        "turns": TURNS,
    }

    def measure() -> dict[str, Any]:
        rehearsal = trainee.anew().step
        assert isinstance(rehearsal, WrittenStep)
        inputs, labels = _first_batch(trainee, cell.batch_size)

        def kernels_for(examples: int) -> Kernels:  # batches of other sizes are trained in chunks of this size, too
            answer = remembered(
                {**question, "examples": examples}, lambda: {"kernels": tune_blocks(rehearsal, inputs[:examples])}
            )
            kernels: Kernels = answer["kernels"]
            return kernels

        chunk = None if levers.chunk == "auto" else levers.chunk
        return tune(rehearsal, inputs, labels, chunk=chunk, kernels_for=kernels_for)

    answer = remembered({**question, "batch_size": cell.batch_size, "chunk": levers.chunk}, measure)
    apply(step, answer["chunk"], answer["kernels"])
    settled = dataclasses.replace(levers, chunk=answer["chunk"], kernels=answer["kernels"], memory_format="contiguous")
    return dataclasses.replace(trainee, levers=settled)


def _with_convolutions(job: Job, trainee: Trainee) -> Trainee:
    from mnistbench.train.steps import convolution

    levers = trainee.levers
    if levers.convolutions == "cudnn":
        return trainee

    def measure() -> dict[str, Any]:
        inputs = trainee.inputs(_first_batch(trainee, job.cell.batch_size)[0])
        network = trainee.anew().model
        network.train()
        return {"kernels": convolution.choose(network, inputs, devices.synchronizer(trainee.device))}

    kernels: Kernels = []
    if convolution.convolutions(trainee.model) and trainee.update.asks == "step":
        of_device = devices.describe_gpu(trainee.device) if trainee.device.type == "cuda" else {}
        asked = {"batch_size": job.cell.batch_size, "precision": levers.precision, "benchmark": levers.benchmark}
        kernels = remembered({**_asked_of(trainee), **of_device, **asked}, measure)["kernels"]
    if not any(map(convolution.is_other, kernels)):
        return dataclasses.replace(trainee, levers=dataclasses.replace(levers, convolutions="cudnn"))
    convolution.apply(trainee.model, kernels)
    return dataclasses.replace(trainee, levers=dataclasses.replace(levers, kernels=kernels))


def _asked_of(trainee: Trainee) -> dict[str, Any]:
    import torch

    return {"machine": this_machine.machine_id(), "torch": torch.__version__, **network_key(trainee)}


def network_key(trainee: Trainee) -> dict[str, Any]:
    """What tells networks apart whose layers may print alike: the source of a plug-in is in its checksum."""
    cell = trainee.builder.cell
    return {
        "architecture": cell.architecture.to_json(),
        "layers": str(trainee.model),
        "weights": [[name, list(getattr(value, "shape", ()))] for name, value in trainee.model.state_dict().items()],
        "input_shape": list(trainee.test[0].shape[1:]),
        "loss": cell.training.loss.shortest_json(),
    }


def _first_batch(trainee: Trainee, batch_size: int) -> tuple[Tensor, Tensor]:
    """The first examples of the training data, whatever the batches come from; never a batch that training will see."""
    batches = trainee.batches
    if isinstance(batches, ResidentBatches):
        return batches.inputs[:batch_size], batches.labels[:batch_size]
    return next(iter(batches.epoch(0)))


def warm_up(trainee: Trainee, seed: int) -> None:
    """A few steps with throw-away state, so that the first timed step is like the others; no trace is left (rule 6).

    What is compiled or captured holds the addresses of the network that is trained: there the values go back into the
    same storage, and the optimizer is built anew.
    """
    if trainee.levers.compile or isinstance(trainee.step, GraphStep):
        snapshot = Snapshot(trainee.model)
        _throw_away_steps(trainee)
        snapshot.restore()
        trainee.update.renew()
    else:
        _throw_away_steps(trainee.anew())
    reproducibility.seed_everything(reproducibility.derived_seed(seed, "training"))


def _throw_away_steps(trainee: Trainee) -> None:
    """Steps as an epoch takes them, from fetching a batch to noting its loss; on a GPU until its clock has risen."""
    import torch

    trainee.model.train()
    whole = WARMUP_STEPS if trainee.batches.batch_size < LARGE_BATCH else 1
    until = time.perf_counter() + WARMUP_SECONDS.get(trainee.device.type, 0.0)
    taken = itertools.count()
    while True:
        steps = trainee.batches.together + whole + 1
        batches = _renewing(trainee, trainee.batches.rehearsal(whole), taken)
        take_steps(trainee, batches, [trainee.factors[0]] * steps)
        if trainee.device.type == "cuda":
            torch.cuda.synchronize(trainee.device)
        if time.perf_counter() >= until:
            return


def _renewing(
    trainee: Trainee, batches: Iterable[tuple[Tensor, Tensor]], taken: Iterator[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; an optimizer of other people's, which may refuse more steps than a training has, takes no more."""
    for batch, number in zip(batches, taken, strict=False):
        if number and ":" in trainee.builder.cell.optimizer.name and number % len(trainee.factors) == 0:
            trainee.update.renew()
        yield batch
