"""The update of the weights: torch's own optimizers, called with as little around them as they allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnistbench import optimizers
from mnistbench.cell import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mnistbench.plugins import Plugins

WHOLE_MATRICES = ("muon",)
"""Optimizers that look at a weight as a matrix: their weights cannot lie in one flat tensor."""


class Update:
    """Holds the optimizer of a network, and where its gradients go.

    Optimizers that have a fused kernel get all weights at once. The others would loop over the weights in Python; they
    get one flat tensor instead, of which the weights are views: elementwise updates give the same numbers.
    """

    def __init__(  # the parts of an optimizer
        self, model: nn.Module, component: Component, *, fused: bool, plugins: Plugins | None = None
    ) -> None:
        import torch

        self.parameters: list[Any] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.gradients: list[Tensor] = []
        self._flat: Tensor | None = None
        implementation: dict[str, Any] = {"fused": True} if fused else {}
        self.optimizer = optimizers.build(component, self.parameters, plugins, **implementation)
        self.fused = bool(self.optimizer.defaults.get("fused"))
        ours = ":" not in component.name and component.name not in WHOLE_MATRICES
        if fused and ours and not self.fused:
            self._flat = torch.nn.Parameter(_flatten(self.parameters))
            self._flat.grad = torch.zeros_like(self._flat)
            self.optimizer = optimizers.build(component, [self._flat], plugins)
        self._sgd = self._plain_fused_sgd()

    @property
    def kind(self) -> str:
        """How the update is done, for the record: `fused`, `flat` or `as torch does`."""
        return "flat" if self._flat is not None else "fused" if self.fused else "as torch does"

    def __call__(self, lr: float) -> None:
        """Apply `gradients` with this learning rate."""
        import torch

        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        if self._flat is not None:
            torch.cat([gradient.reshape(-1) for gradient in self.gradients], out=self._flat.grad)
        elif self._sgd is not None:
            self._sgd(self.parameters, self.gradients, lr)
            return
        else:
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()

    def forget(self) -> None:
        """Bring the optimizer's state back to its beginning, in place (rule 6)."""
        optimizers.reset_state(self.optimizer)
        if self._sgd is not None:
            self._sgd.forget()

    def _plain_fused_sgd(self) -> _FusedSGD | None:
        import torch

        if type(self.optimizer) is not torch.optim.SGD or not self.fused or self.parameters[0].device.type != "cpu":
            return None
        return _FusedSGD(self.optimizer.param_groups[0])


class _FusedSGD:
    """torch's fused SGD kernel without the optimizer's own Python around it: 21 µs a step for an MLP instead of 52."""

    def __init__(self, group: dict[str, Any]) -> None:
        self._settings = {name: group[name] for name in ("momentum", "weight_decay", "dampening", "nesterov")}
        self._buffers: list[Tensor] = []
        self._first = True

    def __call__(self, parameters: list[Any], gradients: list[Tensor], lr: float) -> None:
        import torch

        if self._first and self._settings["momentum"]:
            self._buffers = [torch.zeros_like(parameter) for parameter in parameters]
        with torch.no_grad():
            torch._fused_sgd_(
                parameters,
                gradients,
                self._buffers,
                lr=lr,
                maximize=False,
                is_first_step=self._first and bool(self._buffers),
                **self._settings,
            )
        self._first = False

    def forget(self) -> None:
        self._first = True


def _flatten(parameters: list[nn.Parameter]) -> torch.Tensor:
    """Lay the weights one behind the other in one tensor, and make them views of it."""
    import torch

    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.data = flat[start:stop].view_as(parameter)
        start = stop
    return flat
