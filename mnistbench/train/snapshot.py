"""A network as it is now, to be brought back in place: tensors in the same storage, and what it counts in Python."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module()))
"""Attributes in which torch keeps weights, layers and hooks."""


class Snapshot:
    """What `restore` brings back: parameters, buffers, and plain attributes of all modules.

    An attribute that holds anything but numbers, text, tensors and collections of these is left alone: a list of layers
    must go on naming the layers that are trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [(each, each.detach().clone()) for each in model.parameters()]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self._attributes = [
            (module, {name: copy.deepcopy(value) for name, value in vars(module).items() if _is_plain(name, value)})
            for module in model.modules()
        ]

    def restore(self) -> None:
        """Bring it back."""
        with torch.no_grad():
            for parameter, value in self._parameters:
                parameter.copy_(value)
            for module, name, buffer, value in self._buffers:
                setattr(module, name, buffer.copy_(value))  # a forward may have put another tensor in its place
        for module, attributes in self._attributes:
            vars(module).update(copy.deepcopy(attributes))


def load_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a state dict into a network in place. A buffer that is new, or of another size, takes its place as it is."""
    there = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            owner, _, last = name.rpartition(".")
            if last == "_extra_state":
                model.get_submodule(owner).set_extra_state(copy.deepcopy(value))
            elif name in there and there[name].shape == value.shape:
                there[name].copy_(value)
            else:
                model.get_submodule(owner).register_buffer(last, value.to(_device(model), copy=True))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _is_plain(name: str, value: Any) -> bool:
    return name not in INTERNAL and _is_data(value)


def _is_data(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_leaf and not isinstance(value, nn.Parameter)
    if isinstance(value, Mapping):
        return all(map(_is_data, value.keys())) and all(map(_is_data, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_data, value))
    return isinstance(value, bool | int | float | complex | str | bytes | None)
