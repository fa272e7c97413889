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

    from mnistbench.train.steps.autograd import AutogradStep
    from mnistbench.train.steps.update import Update


class CaptureFailed(RuntimeError):
    """The network runs, but not under capture; what is left of the process's CUDA state nobody knows."""


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
    gradients: list[Tensor | None]


class GraphStep:
    """An autograd step whose gradients are captured on the first batch of each size.

    Args:
        step: on a CUDA device.
        update: gets the gradients.
        record: captures a graph; a test gives its own, since the machines that test this have no GPU.
    """

    def __init__(self, step: AutogradStep, update: Update, record: Record | None = None) -> None:
        self._step, self._update, self._record = step, update, record or record_cuda_graph
        self._captured: dict[int, _Captured] = {}

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Step`; results and gradients are overwritten by the next batch of this size.

        Raises:
            CaptureFailed: at a first batch, if the network does something that a graph cannot hold.
        """
        captured = self._captured.get(len(labels))
        if captured is None:
            captured = self._captured[len(labels)] = self._capture(inputs.clone(), labels.clone())
        captured.inputs.copy_(inputs)
        captured.labels.copy_(labels)
        captured.graph.replay()
        self._update.gradients = list(captured.gradients)
        return captured.loss, captured.right

    def _capture(self, inputs: Tensor, labels: Tensor) -> _Captured:
        has_gradient: list[bool] = []

        def launch() -> list[Tensor]:
            results = self._step.gradients(inputs, labels)
            has_gradient[:] = [gradient is not None for gradient in self._update.gradients]
            return [*results, *(gradient for gradient in self._update.gradients if gradient is not None)]

        graph, (loss, right, *rest) = self._record(launch)
        gradients = iter(rest)
        return _Captured(graph, inputs, labels, loss, right, [next(gradients) if has else None for has in has_gradient])


def record_cuda_graph(launch: Launch) -> tuple[Graph, list[Tensor]]:
    """Capture what `launch` does on the current CUDA device.

    Raises:
        CaptureFailed: if it did run, and could not be captured: it waits for the device (`.item()`), for one.
    """
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUPS):
            launch()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    recording: AbstractContextManager[None] = torch.cuda.graph(graph)
    try:
        with recording:
            overwritten = launch()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch raises errors of several types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CaptureFailed(f"the step cannot be captured as a CUDA graph ({reason}): say `graph: false`") from error
    return graph, overwritten
