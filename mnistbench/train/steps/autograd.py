"""The step as everybody writes it, by torch's autograd; chunks, memory format, precision, compilation are levers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from typing_extensions import override

from mnistbench.axes.losses import Loss, correct
from mnistbench.errors import UserError
from mnistbench.train.steps import Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mnistbench.train.batches import Inputs
    from mnistbench.train.steps.update import Update


class AutogradStep(Step):
    """Forward and `backward()`.

    Args:
        model: on its device, in training mode.
        loss: of a batch.
        update: gets the gradients.
        inputs: turns stored inputs into the network's.
        chunk: examples at once; 0 takes the whole batch.
        precision: of the forward pass; bf16 and fp16 by autocast. fp16 scales the loss against underflow.
    """

    FP16_SCALE = 1024.0

    def __init__(  # the parts of a step
        self,
        model: nn.Module,
        loss: Loss,
        update: Update,
        inputs: Inputs,
        *,
        chunk: int,
        precision: str,
    ) -> None:
        self.model, self.loss, self.inputs, self.chunk = model, loss, inputs, chunk
        self._update, self._precision = update, precision

    @override
    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """By `backward()`.

        Raises:
            UserError: if the network returns no tensor, or outputs without a gradient.
        """
        import torch

        self._update.clear()
        if self.chunk and len(labels) > self.chunk:
            chunks = zip(inputs.split(self.chunk), labels.split(self.chunk), strict=True)
            # Each chunk's share of the batch's mean; a last chunk that is smaller weighs less.
            parts = [self._backward(some, wanted, "sum", 1 / len(labels)) for some, wanted in chunks]
            losses, rights = zip(*parts, strict=True)
            loss, right = torch.stack(losses).sum() / len(labels), torch.stack(rights).sum()
        else:
            loss, right = self._backward(inputs, labels, "mean", 1.0)
        self._update.gradients = [parameter.grad for parameter in self._update.parameters]
        if self._precision == "fp16":
            there = [gradient for gradient in self._update.gradients if gradient is not None]
            torch._foreach_mul_(there, 1 / self.FP16_SCALE)
        return loss, right

    def _backward(self, inputs: Tensor, labels: Tensor, reduction: str, share: float) -> tuple[Tensor, Tensor]:
        import torch

        with self._autocast(inputs.device.type):
            outputs = self.model(self.inputs(inputs))
        if not isinstance(outputs, torch.Tensor):
            raise UserError(
                f"the network returns a {type(outputs).__name__} in training; one tensor [n, classes] is needed:"
                " wrap it in a module that returns the outputs alone"
            )
        if not outputs.requires_grad:
            raise UserError(
                "the network's outputs in training carry no gradient: its `forward` detaches them, runs under"
                " `torch.no_grad()`, or uses no parameter that requires one"
            )
        precise = outputs if outputs.dtype == torch.float64 else outputs.float()
        loss = self.loss(precise, labels, reduction)
        scale = share * (self.FP16_SCALE if self._precision == "fp16" else 1.0)
        scaled = loss if scale == 1.0 else loss * scale
        scaled.backward(create_graph=self._update.asks == "graph of gradients")
        return loss.detach(), correct(outputs.detach(), labels)

    def _autocast(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        import torch

        if self._precision not in ("bf16", "fp16"):
            return contextlib.nullcontext()
        return torch.autocast(device_type, dtype=torch.bfloat16 if self._precision == "bf16" else torch.float16)
