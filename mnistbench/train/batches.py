"""Seeded batches: the same examples in the same order, whether they lie in the device's memory or come from a loader.

Everything in here is on the training clock (rule 4): shuffling, choosing the batch, bringing it to the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import override

from mnistbench.train.machine import order_of_examples

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Batches(Protocol):
    """Batches of the training data.

    Attributes:
        examples: of an epoch.
        together: how many whole batches come in one piece, for graphs of several steps.
    """

    examples: int
    batch_size: int
    together: int

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each example once, in the order of this epoch: pieces of `together` batches, single ones, a partial one.

        Yields:
            Inputs as `Inputs` takes them, and labels [n], both on the device.
        """
        ...

    def part_of_epoch(self, number: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first batches of an epoch and its last one, single, for who need not see all of it."""
        ...

    def rehearsal(self, whole: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A piece of each size, and so many whole batches, fetched as `epoch` fetches its own.

        They are of the first examples of the data, in their order: no epoch's batch.
        """
        ...


@dataclass
class ResidentBatches(Batches):
    """All data in the device's memory, pixels as bytes: a batch is a gather there.

    Attributes:
        inputs: uint8 [n, height, width] or float32 [n, features].
        labels: int64 [n].
        drawn_ahead: how many epochs there are, where the order of the next one is drawn at the end of each, while a GPU
            still works on its queue; 0 draws each at its own beginning. All of it is on the training clock.
    """

    inputs: Tensor
    labels: Tensor
    batch_size: int
    seed: int
    shuffle: bool
    drawn_ahead: int = 0
    together: int = 1

    def __post_init__(self) -> None:
        self.examples = len(self.labels)
        self._next: dict[int, Tensor] = {}

    @override
    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """An order that is not shuffled is read in slices, without a copy."""
        sizes = self._sizes()
        if not self.shuffle:
            yield from zip(self.inputs.split(sizes), self.labels.split(sizes), strict=True)
            return
        order = self._next.pop(number) if number in self._next else self._drawn(number)
        for chosen in order.split(sizes):
            yield self.inputs.index_select(0, chosen), self.labels.index_select(0, chosen)
        if number < self.drawn_ahead:
            self._next = {number + 1: self._drawn(number + 1)}

    def _sizes(self) -> list[int]:
        pieces, left = divmod(self.examples, self.together * self.batch_size)
        singles, last = divmod(left, self.batch_size)
        return [self.together * self.batch_size] * pieces + [self.batch_size] * singles + [last] * bool(last)

    def _drawn(self, number: int) -> Tensor:
        return self._sent(order_of_examples(self.examples, self.seed, number, shuffle=True))

    def _sent(self, order: Tensor) -> Tensor:
        if self.inputs.device.type != "cuda":
            return order.to(self.inputs.device)
        return order.pin_memory().to(self.inputs.device, non_blocking=True)  # the copy waits for no step before it

    @override
    def part_of_epoch(self, number: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = list(single(self.epoch(number), self.batch_size))
        yield from batches[:first] + batches[first:][-1:]

    @override
    def rehearsal(self, whole: int) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        order = self._sent(torch.arange(self.examples))  # whole, since pinned memory is dear at its first use
        for size in _rehearsed(self, whole):
            if self.shuffle:
                chosen = order[:size]
                yield self.inputs.index_select(0, chosen), self.labels.index_select(0, chosen)
            else:
                yield self.inputs[:size], self.labels[:size]


def single(batches: Iterable[tuple[Tensor, Tensor]], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch for itself."""
    for inputs, labels in batches:
        yield from zip(inputs.split(batch_size), labels.split(batch_size), strict=True)


def _rehearsed(batches: Batches, whole: int) -> list[int]:
    """Sizes: kernels and graphs are made for each."""
    piece, last = batches.together * batches.batch_size, batches.examples % batches.batch_size
    pieces = [piece] if batches.together > 1 and piece <= batches.examples else []
    return pieces + [batches.batch_size] * whole + ([last] if last else [])


class LoaderBatches(Batches):
    """As a tutorial reads them: one example at a time, made into a picture, a tensor, a batch, and sent to the device.

    Args:
        inputs, labels: numpy arrays as `arrays.load` gives them.
        normalization: mean and standard deviation in [0, 1] units, or None.
    """

    together = 1

    def __init__(  # a loader has that many settings
        self,
        inputs: Any,
        labels: Any,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        device: torch.device,
        normalization: tuple[float, float] | None,
    ) -> None:
        self.examples = len(labels)
        self.batch_size, self.seed, self.shuffle, self.device = batch_size, seed, shuffle, device
        self._dataset = _TutorialDataset(inputs, labels, normalization)

    @override
    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._read(self._order(number))

    @override
    def part_of_epoch(self, number: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The other examples are not even read."""
        batches = self._order(number).split(self.batch_size)
        yield from (batch for indices in batches[:first] + batches[first:][-1:] for batch in self._read(indices))

    @override
    def rehearsal(self, whole: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The examples are read once, since reading warms nothing on a device."""
        inputs, labels = next(self._read(self._order(0)[: self.batch_size]))
        yield from ((inputs[:size], labels[:size]) for size in _rehearsed(self, whole))

    def _order(self, number: int) -> Tensor:
        return order_of_examples(self.examples, self.seed, number, shuffle=self.shuffle)

    def _read(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        import torch
        from torch.utils.data import DataLoader

        loader: Any = DataLoader(
            self._dataset,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=order.tolist(),
            # A loader draws a seed for its workers: from a generator of its own, so that masks of dropout are those
            # of data in memory.
            generator=torch.Generator(),
        )
        for inputs, labels in loader:
            yield inputs.to(self.device), labels.to(self.device)


class _TutorialDataset:
    """What `torchvision.datasets.MNIST` does for each example: a PIL picture, then the transforms."""

    def __init__(self, inputs: Any, labels: Any, normalization: tuple[float, float] | None) -> None:
        self.inputs, self.labels = inputs, labels
        self.transform = None
        if inputs.dtype.name == "uint8":
            from torchvision import transforms

            steps: list[Any] = [transforms.ToTensor()]
            if normalization:
                steps.append(transforms.Normalize((normalization[0],), (normalization[1],)))
            self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if self.transform is None:
            return self.inputs[index].copy(), int(self.labels[index])
        from PIL import Image

        return self.transform(Image.fromarray(self.inputs[index])), int(self.labels[index])


@dataclass(frozen=True)
class Inputs:
    """Turns stored inputs into what a network takes.

    Attributes:
        normalization: mean and standard deviation in [0, 1] units, or None.
        memory_format: of image batches.
    """

    normalization: tuple[float, float] | None
    memory_format: torch.memory_format

    def __call__(self, stored: Tensor) -> Tensor:
        """Bytes [n, height, width] become float32 [n, 1, height, width] in [0, 1]; floats stay as they are."""
        import torch

        if stored.dtype == torch.uint8:
            floats = stored.float().div_(255).unsqueeze_(1)
            if self.normalization:
                floats.sub_(self.normalization[0]).div_(self.normalization[1])
        else:
            floats = stored
        return floats.contiguous(memory_format=self.memory_format) if floats.dim() == 4 else floats
