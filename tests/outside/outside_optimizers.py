"""Optimizers as other people write them, over one list of parameters and over groups: a plug-in of the tool."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import Any

import torch


def made(name: str, parameters: Any, **options: Any) -> Any:
    """The optimizer `module:Class`, the options that it does not take left out."""
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    taken = inspect.signature(function).parameters
    return function(parameters, **{key: value for key, value in options.items() if key in taken})


def grouped(
    named_parameters: Any,
    optimizer: str,
    lr: float,
    options: str = "{}",
    varying: str = "lr",
    fused: bool | None = None,
) -> Any:
    """Two groups: what the last layer has, and all else. They differ in decay, and in rate where the optimizer allows.

    Args:
        named_parameters: pairs, as the tool gives them to whoever asks by this name.
        optimizer: `module:Class`.
        lr: of the larger group.
        options: of the optimizer, as JSON.
        varying: `lr` or `weight_decay`: what the groups differ in.
        fused: the tool's lever.
    """
    pairs = list(named_parameters)
    last = pairs[-1][0].rpartition(".")[0]
    head = [parameter for name, parameter in pairs if name.startswith(last)]
    body = [parameter for name, parameter in pairs if not name.startswith(last)]
    groups = [{"params": body, "weight_decay": 0.01}, {"params": head, "weight_decay": 0.0}]
    if varying == "lr":
        groups[1]["lr"] = lr * 3
    speed = {} if fused is None else {"fused": fused}
    return made(optimizer, groups, lr=lr, **json.loads(options), **speed)


class OwnRate(torch.optim.SGD):
    """Lowers its own rate at each step."""

    def __init__(self, parameters: Any, lr: float = 0.1) -> None:
        super().__init__(parameters, lr=lr, momentum=0.9)

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.9
        return loss


def step_hook(parameters: Any, lr: float = 0.1) -> Any:
    """SGD with a hook that bounds the weights after each step."""
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    def bound(optimizer: Any, arguments: Any, options: Any) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.clamp_(-0.03, 0.03)

    optimizer.register_step_post_hook(bound)
    return optimizer


def sam(parameters: Any, lr: float = 0.1, rho: float = 0.05) -> Any:
    """Sharpness-aware minimization around SGD (Foret et al. 2020)."""
    import pytorch_optimizer

    return pytorch_optimizer.SAM(parameters, torch.optim.SGD, rho=rho, lr=lr, momentum=0.9)


def heavyball_sam(parameters: Any, lr: float = 0.01) -> Any:
    """heavyball's SAM around its schedule-free AdamW."""
    import heavyball

    parameters = list(parameters)
    return heavyball.SAMWrapper(parameters, heavyball.SFAdamW(parameters, lr=lr))


def lookahead(parameters: Any, lr: float = 0.1) -> Any:
    """Lookahead around SGD (Zhang et al. 2019)."""
    import pytorch_optimizer

    return pytorch_optimizer.Lookahead(torch.optim.SGD(parameters, lr=lr, momentum=0.9), k=3)


def schedule_free_wrapper(parameters: Any, lr: float = 0.1) -> Any:
    """schedulefree's wrapper around SGD."""
    import schedulefree

    return schedulefree.ScheduleFreeWrapper(torch.optim.SGD(parameters, lr=lr), momentum=0.9)


def muon_beside_adamw(named_parameters: Any, lr: float = 0.02) -> Any:
    """pytorch_optimizer's Muon: it wants to be told which parameters are matrices."""
    import pytorch_optimizer

    pairs = list(named_parameters)
    matrices = [parameter for name, parameter in pairs if name.endswith("weight")]
    others = [parameter for name, parameter in pairs if not name.endswith("weight")]
    groups = [{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}]
    return pytorch_optimizer.Muon(groups, lr=lr)


def decay_by_network(model: torch.nn.Module, lr: float = 0.01) -> Any:
    """AdamW that decays the weights of linear layers alone: it asks for the network."""
    decayed = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    others = [parameter for parameter in model.parameters() if all(parameter is not weight for weight in decayed)]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=lr)
