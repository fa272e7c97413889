"""Measures which kernels, layouts and chunk size are fastest for one network and batch size on this machine.

The default is left only for a gain over 5 %: less than that is within the noise of so short a measurement.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mnistbench.train.steps.blocks import Block
from mnistbench.train.steps.written import WrittenStep

if TYPE_CHECKING:
    from torch import Tensor

CHUNKS = (1024, 512, 256, 128, 64)
GAIN = 0.95
MOST_EXAMPLES = 512
"""Blocks are timed on at most this many examples; what is fastest there is so for larger batches."""
MOST_IN_CHUNKS = 2048
"""A chunk size is timed on at most this many examples of a batch: two chunks or more, and the rest is alike."""
ROUNDS = 2
"""Of timings, in turns: a disturbance that lasts a second then meets every chunk size alike."""
LONG_ENOUGH, TOO_LONG, TURNS = 0.003, 0.1, 3
"""Seconds: shorter calls are repeated until they last that long; longer ones have one turn."""


Kernels = list[dict[str, str]]
"""A choice per block of a written step."""
KernelsFor = Callable[[int], Kernels]
"""Given the number of examples that the blocks get at once."""


def tune(
    step: WrittenStep,
    inputs: Tensor,
    labels: Tensor,
    *,
    chunk: int | None,
    kernels_for: KernelsFor,
) -> dict[str, Any]:
    """Find the fastest choices for batches like this one, and leave the step set to them.

    Args:
        step: its gradients are computed, its weights stay as they are.
        inputs, labels: one whole batch.
        chunk: taken as it is; None tries several sizes.
        kernels_for: what `tune_blocks` finds, or has found before.

    Returns:
        `chunk`, `kernels` (a choice per block) and `timings` in seconds per batch.
    """
    batch_size = len(labels)
    sizes = [chunk] if chunk is not None else [0, *(size for size in CHUNKS if size < batch_size)]
    choices = {size: kernels_for(min(size or batch_size, MOST_EXAMPLES)) for size in sizes}
    examples = {size: min(batch_size, MOST_IN_CHUNKS) if 0 < size < MOST_IN_CHUNKS else batch_size for size in sizes}
    timings = dict.fromkeys(sizes, math.inf)
    if len(sizes) > 1:
        for round_ in range(ROUNDS + 1):
            for size in sizes:
                apply(step, size, choices[size])
                start = time.perf_counter()
                step.gradients(inputs[: examples[size]], labels[: examples[size]])
                seconds = (time.perf_counter() - start) * batch_size / examples[size]
                if round_ > 0:  # the first call of a size pays for its memory and threads
                    timings[size] = min(timings[size], seconds)
    best = min(sizes, key=lambda size: timings[size])
    if timings[best] > GAIN * timings[sizes[0]]:
        best = sizes[0]
    apply(step, best, choices[best])
    told = {str(size): seconds for size, seconds in timings.items() if math.isfinite(seconds)}
    return {"chunk": best, "kernels": choices[best], "timings": told}


def apply(step: WrittenStep, chunk: int, kernels: Kernels) -> None:
    """Set a step to choices that were measured before."""
    step.chunk = chunk
    for block, choice in zip(step.blocks, kernels, strict=True):
        block.choice = dict(choice)


def tune_blocks(step: WrittenStep, inputs: Tensor) -> Kernels:
    """Find the fastest kernel and layout of each block for this many examples, and leave the step set to them."""
    with torch.no_grad():
        x = step.inputs(inputs)
        for index, block in enumerate(step.blocks):
            given, x = x, block.forward(x)
            if block.choices():
                _tune_block(block, given, torch.randn_like(x), wants_input=index > step.first_with_weights)
                x = block.forward(given)
    return [dict(block.choice) for block in step.blocks]


def _tune_block(block: Block, x: Tensor, gradient: Tensor, *, wants_input: bool) -> None:
    """One choice after the other, the others held: their effects hardly interact, and all pairs would take too long."""

    def forward_and_backward() -> None:
        block.forward(x)
        block.backward(gradient, wants_input=wants_input)

    for key, values in block.choices().items():
        for value in values[1:] if wants_input or key != "input" else ():
            before, other = block.choice, {**block.choice, key: value}
            faster = _ratio(block, other, before, forward_and_backward) < GAIN
            block.choice = other if faster else before


def _ratio(block: Block, choice: dict[str, str], before: dict[str, str], call: Callable[[], object]) -> float:
    """How long a call takes with this choice, over the one before it: the median of a few turns of both.

    A virtual machine may change between two speeds every few seconds: both calls of a turn meet the same.
    """

    def seconds(chosen: dict[str, str], calls: int) -> float:
        block.choice = chosen
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls

    seconds(choice, 1)  # the first call pays for its memory and threads
    once = seconds(before, 1)
    calls = max(1, round(LONG_ENOUGH / max(once, 1e-6)))
    turns = 1 if once > TOO_LONG else TURNS
    return statistics.median(seconds(choice, calls) / seconds(before, calls) for _ in range(turns))
