"""Muon for the matrices of a network, AdamW for the rest, behind the face of one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class MuonBesideAdamW(torch.optim.Optimizer):
    """Two optimizers that share groups and state, so that schedules, warm-up and checkpoints see a single one.

    Args:
        parameters: matrices (weights of linear layers) go to Muon, all others (convolutions, biases, norms) to AdamW.
        lr, weight_decay: of both.
        momentum, nesterov, ns_steps: of Muon; `ns_steps` counts its Newton-Schulz iterations.
        implementation: `fused`, `foreach` or `capturable`, for AdamW; torch's Muon has no such choice.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        weight_decay: float,
        **implementation: Any,
    ) -> None:
        given = list(parameters)
        super().__init__(given, {"lr": lr, "weight_decay": weight_decay})
        matrices = [parameter for parameter in given if parameter.ndim == 2]
        others = [parameter for parameter in given if parameter.ndim != 2]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=lr,
                    weight_decay=weight_decay,
                    momentum=momentum,
                    nesterov=nesterov,
                    ns_steps=ns_steps,
                    ns_coefficients=(3.4445, -4.775, 2.0315),
                    eps=1e-7,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self.parts.append(
                torch.optim.AdamW(
                    others, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, **implementation
                )
            )
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each part."""
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave."""
        super().load_state_dict(state_dict)
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups = [group]
        self._share_state()

    def _share_state(self) -> None:
        shared: defaultdict[Tensor, Any] = defaultdict(dict, self.state)
        self.state = shared
        for part in self.parts:
            part.state = shared
