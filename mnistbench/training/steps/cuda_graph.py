"""Forward and backward replayed as a CUDA graph: one launch instead of a hundred; the update stays one fused kernel.

There is one graph for each batch size (the last partial batch has its own), over static inputs and labels. Masks of
dropout differ between replays: torch registers its generator with the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.training.steps.autograd import AutogradStep

WARMUPS = 3
"""Eager passes on a side stream before the capture, as torch's notes on CUDA graphs ask for."""


class Graph(Protocol):
    """What is used of `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Run again what was recorded, on the tensors it was recorded with."""
        ...


Launch = Callable[[], "list[Tensor]"]
Record = Callable[[Launch], "tuple[Graph, list[Tensor]]"]
"""Runs a function, recording what it launches; returns the graph and the tensors that each replay overwrites."""


@dataclass
class _Captured:
    graph: Graph
    inputs: Tensor
    labels: Tensor
    loss: Tensor
    right: Tensor
    gradients: list[Tensor]


class GraphStep:
    """An autograd step whose gradients are captured on the first batch of each size.

    Args:
        step: on a CUDA device.
        record: captures a graph; a test gives its own, since the machines that test this have no GPU.
    """

    def __init__(self, step: AutogradStep, record: Record | None = None) -> None:
        self._step, self._record = step, record or record_cuda_graph
        self._captured: dict[int, _Captured] = {}

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Step`; sums and gradients are overwritten by the next batch of this size.

        Raises:
            RuntimeError: at a first batch, if the network does something that a graph cannot hold.
        """
        captured = self._captured.get(len(labels))
        if captured is None:
            captured = self._captured[len(labels)] = self._capture(inputs.clone(), labels.clone())
        captured.inputs.copy_(inputs)
        captured.labels.copy_(labels)
        captured.graph.replay()
        self._step.keep(captured.gradients)
        return captured.loss, captured.right

    def update(self, lr: float) -> None:
        """See `Step`."""
        self._step.update(lr)

    def kept_gradients(self) -> list[Tensor]:
        """See `Step`."""
        return self._step.kept_gradients()

    def _capture(self, inputs: Tensor, labels: Tensor) -> _Captured:
        def launch() -> list[Tensor]:
            return [*self._step.gradients(inputs, labels), *self._step.kept_gradients()]

        graph, (loss, right, *gradients) = self._record(launch)
        return _Captured(graph, inputs, labels, loss, right, gradients)


def record_cuda_graph(launch: Launch) -> tuple[Graph, list[Tensor]]:
    """Capture what `launch` does on the current CUDA device."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUPS):
            launch()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    recording: AbstractContextManager[None] = torch.cuda.graph(graph)
    with recording:
        overwritten = launch()
    return graph, overwritten
