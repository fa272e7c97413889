"""The update of the weights: the optimizer's own `step()`, as its documentation says it is called.

A learning rate belongs to the optimizer. A schedule multiplies the initial rate of each of its groups; where it does
not change, nothing is written. Two shortcuts, for the optimizers and networks of ours that they were made for, give
the same numbers with less of Python around them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mnistbench.axes import optimizers
from mnistbench.cell import Component
from mnistbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mnistbench.axes.plugins import Plugins

WHOLE_MATRICES = ("muon",)
"""Optimizers that look at a weight as a matrix: their weights cannot lie in one flat tensor."""

IN_GRAPHS = ("rmsprop", "adadelta")
FUSED_IN_GRAPHS = ("sgd", "adam", "adamw")
"""Optimizers whose updates a CUDA graph may hold, the latter where one kernel does them.

Their states begin as zeros, so that a graph's own can be set back, and torch's way of doing them there gives the same
numbers. Without that kernel SGD reads its learning rate on the CPU. Bias corrections of Adamax, NAdam, RAdam, and of
Adam without it, are done in fp32 there; Adagrad and Muon have no such way.
"""

Asks = Literal["step", "graph of gradients", "closure", "search"]
"""How an optimizer wants to be called.

- `step`: after the gradients, without anything.
- `graph of gradients`: they were computed with `create_graph=True` (AdaHessian).
- `closure`: after the gradients, with a closure that computes them again (SAM).
- `search`: with a closure alone, called as often as it likes (LBFGS).
"""

Evaluate = Callable[[], "tuple[Tensor, Tensor]"]
"""Computes the gradients of a batch, leaves them in `Update.gradients`, and returns its loss and right answers."""


class Update:
    """Holds the optimizer of a network, and where its gradients go.

    Args:
        model: on its device; laid into one flat tensor where that is the shortcut.
        component: the optimizer that the cell names.
        fused: take a shortcut where there is one.
        in_graph: the update is to be part of a CUDA graph, if it can be.
        is_ours: the network is one of `architectures.py`: each of its weights has a gradient at each step.
        lr_scale: factor of all initial learning rates, by the cell's `lr_scaling`.
        asks: how the optimizer wants to be called.

    Attributes:
        fits_graph: whether a CUDA graph may hold the update.
        clears: whether the optimizer has a `zero_grad()` of its own, which may keep gradients to add up.
        parameters: all of the network's, frozen ones included, as `optimizer(model.parameters())` gets them.
        gradients: of the last batch, in their order; None where there is none, which is not zero: momentum, weight
            decay and moments leave such a weight alone.
    """

    def __init__(  # the parts of an optimizer
        self,
        model: nn.Module,
        component: Component,
        *,
        fused: bool,
        in_graph: bool = False,
        is_ours: bool = True,
        lr_scale: float = 1.0,
        asks: Asks = "step",
        plugins: Plugins | None = None,
    ) -> None:
        self.parameters: list[Any] = list(model.parameters())
        self.gradients: list[Tensor | None] = []
        self.asks = asks
        self._model, self._component, self._plugins, self._lr_scale = model, component, plugins, lr_scale
        self._flat: torch.nn.Parameter | None = None
        ours = ":" not in component.name
        self._shortcut = fused and ours and is_ours
        # torch's fused SGD fails where one weight's momentum begins later than another's.
        wanted = self._shortcut or (fused and ours and not component.options.get("momentum"))
        # torch's fused kernels take no sparse gradients, as those of its embeddings may be.
        wanted &= not any(getattr(layer, "sparse", False) is True for layer in model.modules())
        self._fused = wanted and self._fused_runs()
        fitting = (*IN_GRAPHS, *FUSED_IN_GRAPHS) if self._fused else IN_GRAPHS
        self.fits_graph = in_graph and component.name in fitting and asks == "step"
        self._in_graphs = False
        self.renew()
        if self._shortcut and not self.fused and component.name not in WHOLE_MATRICES:
            import torch

            self._flat = torch.nn.Parameter(_flatten(self.parameters))
            self._flat.grad = torch.zeros_like(self._flat)
            self.renew()

    def renew(self) -> None:
        """An optimizer as it was before its first step, over the same tensors, whose addresses graphs hold (rule 6).

        It is built anew: no state that steps have left can stay, whatever an optimizer keeps and wherever it does. What
        graphs hold is set to zero in place, as it begins.
        """
        if self._in_graphs:
            self.restore([])
            self._set_rates(1.0)
            return
        self.optimizer = self._built()
        if not (hasattr(self.optimizer, "param_groups") and callable(getattr(self.optimizer, "step", None))):
            raise UserError(
                f"{self._component.name} gives {type(self.optimizer).__name__}, which has no `param_groups` and"
                " `step()` as optimizers have: derive it from torch.optim.Optimizer"
            )
        for group in self.optimizer.param_groups:
            if self._lr_scale != 1.0:
                if "lr" not in group:
                    raise UserError(f"{self._component.name}: a group without `lr` cannot follow `lr_scaling`")
                group["lr"] = group["lr"] * self._lr_scale
        self._initial = [group.get("lr") for group in self.optimizer.param_groups]
        self._factor = 1.0
        self.clears = _has_own_zero_grad(self.optimizer)
        self._given = {id(each) for each in self._model.parameters() if each.requires_grad}
        self._given |= {id(each) for group in self.optimizer.param_groups for each in group.get("params", ())}
        self._sgd = self._plain_fused_sgd()
        self.train()

    @property
    def fused(self) -> bool:
        """Whether all weights are updated by one kernel of torch's."""
        return bool(getattr(self.optimizer, "defaults", {}).get("fused"))  # wrappers of optimizers may have none

    def train(self) -> None:
        """Before training, for optimizers that evaluate at other weights than they train (schedule-free)."""
        _call_if_there(self.optimizer, "train")

    def eval(self) -> None:
        """Before evaluation, likewise."""
        _call_if_there(self.optimizer, "eval")

    def clear(self) -> None:
        """Before the gradients of a step: none are left, unless the optimizer says itself which ones go (`clears`)."""
        if self.clears:
            self.optimizer.zero_grad()
            return
        for parameter in self.parameters:
            parameter.grad = None

    def left_out(self) -> str:
        """Name of a parameter that needs a gradient now, and that the optimizer was not given; empty if there is none.

        It may be new, or was frozen when the optimizer was made.
        """
        named = self._model.named_parameters()
        return next((name for name, each in named if each.requires_grad and id(each) not in self._given), "")

    def step(self, evaluate: Evaluate, factor: float) -> tuple[Tensor, Tensor]:
        """Gradients and update, in the order that the optimizer asks for.

        Args:
            factor: of the schedule, for every group's initial learning rate.

        Returns:
            What the first evaluation gave, at the weights before the update.
        """
        if self.asks in ("step", "graph of gradients"):
            loss, right = evaluate()
            self(factor)
            return loss, right
        import torch

        evaluations: list[tuple[Tensor, Tensor]] = []

        def closure() -> Tensor:
            with torch.enable_grad():
                loss, right = evaluate()
            evaluations.append((loss.clone(), right.clone()))  # a captured graph overwrites them
            self._hand_over()
            return loss

        if self.asks == "closure":
            closure()
        self._set_rates(factor)
        self.optimizer.step(closure)  # type: ignore[arg-type]  # losses as tensors, as torch's examples return them
        if not evaluations:
            raise UserError(
                f"{self._component.name}: its step() never called the closure that it asks for: what it is given is a"
                " function that computes the gradients and returns the loss"
            )
        return evaluations[0]

    def __call__(self, factor: float) -> None:
        """Apply `gradients`, each group's initial learning rate times this factor."""
        if factor != self._factor:
            self._set_rates(factor)
        self._apply()

    def apply_at(self, rates: Tensor) -> None:
        """Apply `gradients` at learning rates [groups] that lie on the device, as what a graph holds reads them."""
        groups = self.optimizer.param_groups
        before = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self._in_graphs = True
        self._apply()
        for group, rate in zip(groups, before, strict=True):
            group["lr"] = rate

    def rates(self, factors: Sequence[float]) -> Tensor:
        """Learning rates [groups, steps], on the CPU, by the factor of the schedule at each step."""
        import torch

        initial = torch.tensor(self._initial, dtype=torch.float64)
        return torch.outer(initial, torch.tensor(factors, dtype=torch.float64)).float()

    def snapshot(self) -> list[Tensor]:
        """What the optimizer has kept of its steps so far."""
        return [tensor.clone() for tensor in self._kept()]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Bring that back in place; what steps have added since begins as zeros."""
        kept = self._kept()
        for tensor, value in zip(kept, snapshot, strict=False):
            tensor.copy_(value)
        for tensor in kept[len(snapshot) :]:
            tensor.zero_()

    def _kept(self) -> list[Tensor]:
        import torch

        states = getattr(self.optimizer, "state", {}).values()
        return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]

    def _apply(self) -> None:
        if self._sgd is not None:
            self._sgd(self.parameters, self.gradients)
            return
        if self._flat is not None:
            import torch

            gradients = [gradient.reshape(-1) for gradient in self.gradients if gradient is not None]
            torch.cat(gradients, out=self._flat.grad)
        else:
            self._hand_over()
        self.optimizer.step()

    def _hand_over(self) -> None:
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def _set_rates(self, factor: float) -> None:
        if factor == self._factor:
            return
        import torch

        self._factor = factor
        for group, initial in zip(self.optimizer.param_groups, self._initial, strict=True):
            if initial is None:
                raise UserError(f"{self._component.name}: a group without `lr` cannot follow a schedule")
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(float(initial) * factor)
            else:
                group["lr"] = initial * factor

    def _built(self) -> torch.optim.Optimizer:
        ways = {"fused": self._fused and self._flat is None, "capturable": self.fits_graph}
        chosen = {way: True for way, wanted in ways.items() if wanted}
        if self._flat is not None:
            return optimizers.build(self._component, [self._flat], self._plugins, **chosen)
        return optimizers.build_for(self._component, self._model, self._plugins, **chosen)

    def _fused_runs(self) -> bool:
        """Whether this torch has a fused kernel for the device and the type of number; some say so at a step only."""
        import torch

        kinds = {(each.device, each.dtype) for each in self.parameters}
        trial = [torch.nn.Parameter(torch.zeros(2, 2, device=device, dtype=dtype)) for device, dtype in kinds]
        for each in trial:
            each.grad = torch.zeros_like(each)
        try:
            optimizers.build(self._component, trial, self._plugins, fused=True).step()
        except RuntimeError:
            return False
        return True

    def _plain_fused_sgd(self) -> _FusedSGD | None:
        import torch
        from torch.optim import optimizer as hooks

        if (
            not self._shortcut
            or self.fits_graph
            or self._flat is not None
            or type(self.optimizer) is not torch.optim.SGD
        ):
            return None
        if hooks._global_optimizer_pre_hooks or hooks._global_optimizer_post_hooks:
            return None
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters)
        return _FusedSGD(self.optimizer.param_groups[0]) if self.fused and on_cpu else None


class _FusedSGD:
    """torch's fused SGD kernel without the optimizer's own Python around it: 21 µs a step for an MLP instead of 52."""

    def __init__(self, group: dict[str, Any]) -> None:
        names = ("momentum", "weight_decay", "dampening", "nesterov", "maximize")
        self._group, self._settings = group, {name: group[name] for name in names}
        self._buffers: list[Tensor] = []
        self._first = True

    def __call__(self, parameters: list[Any], gradients: list[Tensor | None]) -> None:
        import torch

        if self._first and self._settings["momentum"]:
            self._buffers = [torch.zeros_like(parameter) for parameter in parameters]
        with torch.no_grad():
            torch._fused_sgd_(
                parameters,
                gradients,  # type: ignore[arg-type]  # none is missing in a network of ours
                self._buffers,
                lr=self._group["lr"],
                is_first_step=self._first and bool(self._buffers),
                **self._settings,
            )
        self._first = False


def wants_closure_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` cannot be called without an argument, as that of LBFGS."""
    parameters = inspect.signature(optimizer.step).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(each.default is inspect.Parameter.empty and each.kind in positional for each in parameters)


def _has_own_zero_grad(optimizer: torch.optim.Optimizer) -> bool:
    import torch

    method = getattr(optimizer, "zero_grad", None)
    return callable(method) and getattr(method, "__func__", None) is not torch.optim.Optimizer.zero_grad


def _call_if_there(optimizer: torch.optim.Optimizer, name: str) -> None:
    method = getattr(optimizer, name, None)
    if callable(method):
        method()


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
