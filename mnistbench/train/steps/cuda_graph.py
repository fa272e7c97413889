"""Steps replayed as CUDA graphs: one launch instead of a hundred.

A graph holds whole steps, several in a row, where the optimizer's update can be part of it (`Update.fits_graph`);
elsewhere forward and backward of one step, and the update stays outside. There is one graph for each number of examples
(the last partial batch has its own), over static inputs and labels. Masks of dropout differ between replays: torch
registers its generator with the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from mnistbench.train.steps import Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mnistbench.train.steps.autograd import AutogradStep
    from mnistbench.train.steps.update import Update


class CaptureFailed(RuntimeError):
    """The network runs, but not under capture; what is left of the process's CUDA state nobody knows."""


WARMUPS = 3
"""Eager passes on a side stream before the capture, as torch's notes on CUDA graphs ask for."""
MOST_AT_ONCE, EXAMPLES_AT_ONCE = 8, 2048
"""Steps of one graph: so many, as long as their examples are no more than these. Measured on an H200 with an MLP at
batch 64: 192 µs a step one at a time, 158 with 8 in a graph, 156 with 32."""


def steps_at_once(batch_size: int) -> int:
    """How many whole steps a graph holds."""
    return max(1, min(MOST_AT_ONCE, EXAMPLES_AT_ONCE // batch_size))


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
    losses: Tensor
    rights: Tensor


@dataclass
class _Gradients(_Captured):
    gradients: list[Tensor | None]


@dataclass
class _WholeSteps(_Captured):
    rates: Tensor
    factors: tuple[float, ...] = ()


class GraphStep(Step):
    """An autograd step whose work is captured on the first batches of each size.

    Args:
        step: on a CUDA device.
        update: gets the gradients.
        model: what is trained; a capture leaves its weights, statistics and optimizer as they were.
        batch_size: of whole batches.
        record: captures a graph; a test gives its own, since the machines that test this have no GPU.
    """

    def __init__(
        self, step: AutogradStep, update: Update, model: nn.Module, batch_size: int, record: Record | None = None
    ) -> None:
        self._step, self._update, self._model, self._batch_size = step, update, model, batch_size
        self._record = record or record_cuda_graph
        self._gradients: dict[int, _Gradients] = {}
        self._whole_steps: dict[int, _WholeSteps] = {}

    @override
    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Results and gradients are overwritten by the next batch of this size.

        Raises:
            CaptureFailed: at a first batch, if the network does something that a graph cannot hold.
        """
        captured = self._gradients.get(len(labels))
        if captured is None:
            captured = self._gradients[len(labels)] = self._capture_gradients(inputs.clone(), labels.clone())
        captured.inputs.copy_(inputs)
        captured.labels.copy_(labels)
        captured.graph.replay()
        self._update.gradients = list(captured.gradients)
        return captured.losses, captured.rights

    def take(self, inputs: Tensor, labels: Tensor, factors: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Train on one batch or several, one behind the other; only where `Update.fits_graph`.

        Args:
            inputs, labels: of all of them, each but the last of `batch_size` examples.
            factors: of the learning rates at each step.

        Returns:
            Mean loss and right answers of each step, overwritten by the next batches of this number of examples.

        Raises:
            CaptureFailed: as `gradients`.
        """
        captured = self._whole_steps.get(len(labels))
        if captured is None:
            captured = self._capture_whole_steps(inputs.clone(), labels.clone(), len(factors))
            self._whole_steps[len(labels)] = captured
        captured.inputs.copy_(inputs)
        captured.labels.copy_(labels)
        if captured.factors != tuple(factors):
            captured.factors = tuple(factors)
            captured.rates.copy_(self._update.rates(factors), non_blocking=True)
        captured.graph.replay()
        return captured.losses, captured.rights

    def _capture_gradients(self, inputs: Tensor, labels: Tensor) -> _Gradients:
        has_gradient: list[bool] = []

        def launch() -> list[Tensor]:
            results = self._step.gradients(inputs, labels)
            has_gradient[:] = [gradient is not None for gradient in self._update.gradients]
            return [*results, *(gradient for gradient in self._update.gradients if gradient is not None)]

        with self._left_as_it_was():
            graph, (loss, right, *rest) = self._record(launch)
        there = iter(rest)
        return _Gradients(graph, inputs, labels, loss, right, [next(there) if has else None for has in has_gradient])

    def _capture_whole_steps(self, inputs: Tensor, labels: Tensor, steps: int) -> _WholeSteps:
        import torch

        rates = self._update.rates([1.0] * steps).to(inputs.device)

        def launch() -> list[Tensor]:
            losses, rights = [], []
            batches = zip(inputs.split(self._batch_size), labels.split(self._batch_size), strict=True)
            for step, batch in enumerate(batches):
                loss, right = self._step.gradients(*batch)
                self._update.apply_at(rates[:, step])
                losses.append(loss)
                rights.append(right)
            return [torch.stack(losses), torch.stack(rights)]

        optimizer = self._update.snapshot()
        with self._left_as_it_was():
            graph, (losses, rights) = self._record(launch)
        self._update.restore(optimizer)
        return _WholeSteps(graph, inputs, labels, losses, rights, rates)

    @contextmanager
    def _left_as_it_was(self) -> Iterator[None]:
        from mnistbench.train.snapshot import Snapshot

        snapshot = Snapshot(self._model)
        yield
        snapshot.restore()


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
