"""The step as everybody writes it, by torch's autograd; chunks, memory format, precision, compilation are levers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from mnistbench.training.losses import correct

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mnistbench.training.batches import Inputs
    from mnistbench.training.steps.update import Update


class AutogradStep:
    """Forward, `backward()`, `step()`.

    Args:
        model: on its device, in training mode.
        loss: sum over the examples of a batch.
        update: applies gradients.
        inputs: turns stored inputs into the network's.
        chunk: examples at once; 0 takes the whole batch.
        precision: of the forward pass; bf16 and fp16 by autocast. fp16 scales the loss against underflow.
    """

    FP16_SCALE = 1024.0

    def __init__(  # the parts of a step
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        update: Update,
        inputs: Inputs,
        *,
        chunk: int,
        precision: str,
    ) -> None:
        self.model, self.loss, self.inputs, self.chunk = model, loss, inputs, chunk
        self._update, self._precision = update, precision

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Step`."""
        import torch

        for parameter in self._update.parameters:
            parameter.grad = None
        examples, size = len(labels), self.chunk or len(labels)
        scale = self.FP16_SCALE if self._precision == "fp16" else 1.0
        losses, right = [], []
        for some, wanted in zip(inputs.split(size), labels.split(size), strict=True):
            with self._autocast(inputs.device.type):
                outputs = self.model(self.inputs(some))
            loss = self.loss(outputs.float(), wanted)
            # Each chunk's share of the batch's mean; a last chunk that is smaller weighs less.
            (loss * (scale / examples)).backward()
            losses.append(loss.detach())
            right.append(correct(outputs.detach(), wanted))
        self._update.gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self._update.parameters
        ]
        if scale != 1.0:
            torch._foreach_mul_(self._update.gradients, 1 / scale)
        return (losses[0], right[0]) if len(losses) == 1 else (torch.stack(losses).sum(), torch.stack(right).sum())

    def update(self, lr: float) -> None:
        """See `Step`."""
        self._update(lr)

    def keep(self, gradients: list[Tensor]) -> None:
        """Take gradients that were computed elsewhere, for `update`."""
        self._update.gradients = gradients

    def kept_gradients(self) -> list[Tensor]:
        """See `Step`."""
        return self._update.gradients

    def _autocast(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        import torch

        if self._precision not in ("bf16", "fp16"):
            return contextlib.nullcontext()
        return torch.autocast(device_type, dtype=torch.bfloat16 if self._precision == "bf16" else torch.float16)
