"""The names that a grid file may use, with their options, read from the functions that the names stand for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name.

    Attributes:
        options: with their defaults, as a grid file writes them.
        summary: the first sentence of what it is.
    """

    name: str
    options: dict[str, str]
    summary: str


def entries(axis: str) -> list[Entry]:
    """The names of one axis: architectures, optimizers, schedules, datasets or executions."""
    return [_entry(name, function) for name, function in _table(axis).items()]


def _table(axis: str) -> Mapping[str, Callable[..., Any]]:
    from mnistbench import architectures, datasets, execution, optimizers

    tables: dict[str, Mapping[str, Callable[..., Any]]] = {
        "architectures": architectures.ARCHITECTURES,
        "optimizers": optimizers.OPTIMIZERS,
        "schedules": optimizers.SCHEDULES,
        "datasets": datasets.DATASETS,
        "executions": execution.PROFILES,
    }
    return tables[axis]


def _entry(name: str, function: Callable[..., Any]) -> Entry:
    options = {
        parameter.name: _written(parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    summary = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return Entry(name=name, options=options, summary=summary)


def _written(default: Any) -> str:
    """A default as YAML has it."""
    if default is inspect.Parameter.empty:
        return "(required)"
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    if isinstance(default, list | tuple):
        return "[" + ", ".join(_written(item) for item in default) + "]"
    return f"{default:g}" if isinstance(default, float) else str(default)
