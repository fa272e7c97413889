"""One training step, spelled in several ways that give the same numbers: what the speed levers change.

A step computes the gradients of one batch, and applies them; `equivalence.py` compares the two parts apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Step(Protocol):
    """Forward, backward, update."""

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the batch's mean loss, and keep them.

        Args:
            inputs: as stored: uint8 [n, height, width], or float32 [n, features].
            labels: int64 [n].

        Returns:
            Sum of the losses, and number of right answers, both of the whole batch, on the device.
        """
        ...

    def update(self, lr: float) -> None:
        """Apply the kept gradients."""
        ...

    def kept_gradients(self) -> list[Tensor]:
        """The gradients, in the order of the network's parameters."""
        ...
