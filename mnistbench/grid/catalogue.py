"""The names that a grid file may use, with their options, read from the functions that the names stand for."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from mnistbench.grid import declared
from mnistbench.grid.declared import REQUIRED, Axis


@dataclass(frozen=True, kw_only=True)
class Option:
    """What one option takes, in words, and its default as a grid file writes it (None: it must be given)."""

    name: str
    expected: str
    default: str | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name of an axis; `summary` is the first paragraph of its documentation."""

    name: str
    options: list[Option]
    summary: str


def entries(axis: Axis) -> list[Entry]:
    """The names of one axis, in the order of its table."""
    return [_entry(axis, name) for name in declared.names(axis)]


def _entry(axis: Axis, name: str) -> Entry:
    options = [
        Option(
            name=option.name,
            expected=option.expected,
            default=None if option.default is REQUIRED else written(option.plain_default),
        )
        for option in declared.declaration(axis, name).options.values()
    ]
    summary = (inspect.getdoc(declared.function(axis, name)) or "").split("\n\n")[0].replace("\n", " ")
    return Entry(name=name, options=options, summary=summary)


def written(value: Any) -> str:
    """A plain value as YAML has it in one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(written(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
