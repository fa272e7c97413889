"""The gradients of one step, spelled in several ways that give the same numbers: what the speed levers change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Step(Protocol):
    """Forward and backward; `Update` applies what they leave there."""

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the batch's mean loss, and leave them in `Update.gradients`.

        Args:
            inputs: as stored: uint8 [n, height, width], or float32 [n, features].
            labels: int64 [n].

        Returns:
            Mean of the losses, and number of right answers, of the whole batch, on the device.
        """
        ...
