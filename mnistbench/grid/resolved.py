"""A grid resolved to its cells, as JSON: what a machine without YAML reader and pydantic needs to run it.

`plan --resolved cells.json` writes it where everything is installed; `run cells.json` reads it elsewhere. Standard
library only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError
from mnistbench.files.whole import read_regular

if TYPE_CHECKING:
    from mnistbench.grid.grid import Grid

FORMAT_VERSION = 1
MAX_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class ResolvedGrid:
    """What a runner needs to know of a grid.

    Attributes:
        name: of the experiment and its results folder.
        dataset, fallback: as the grid asks.
        on_missing_device: `error` or `skip`.
        cells: in the grid's order.
        yaml: the grid file as resolved, to lie beside the records.
    """

    name: str
    dataset: Component
    fallback: Component | None
    on_missing_device: Literal["error", "skip"]
    cells: list[Cell]
    yaml: str

    def to_yaml(self) -> str:
        """The grid file as resolved."""
        return self.yaml


def write_resolved(grid: Grid, cells: Sequence[Cell], path: Path) -> None:
    """Write the cells of a grid, one per line.

    Args:
        grid: they are of.
        cells: those to run, expanded for the devices of the machine that is to run them.
        path: a `.json` file.

    Raises:
        UserError: if it cannot be written.
    """
    head = {
        "resolved_grid": FORMAT_VERSION,
        "name": grid.name,
        "dataset": grid.dataset.to_json(),
        "fallback": None if grid.fallback is None else grid.fallback.to_json(),
        "on_missing_device": grid.on_missing_device,
        "yaml": grid.to_yaml(),
    }
    lines = ",\n".join(json.dumps({"cell_id": cell.cell_id, **cell.to_json()}, allow_nan=False) for cell in cells)
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "cells": [\n{lines}\n]}}\n'
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def read_resolved(path: Path) -> ResolvedGrid:
    """Read what `write_resolved` wrote.

    Raises:
        UserError: if the file is missing, of another version, or changed by hand (a cell is not its `cell_id`).
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: is larger than {MAX_BYTES:,} bytes")
        plain = json.loads(read_regular(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is no resolved grid: `plan --resolved` writes one") from None
    if not isinstance(plain, dict) or "resolved_grid" not in plain:
        raise UserError(f"{path}: is no resolved grid: `plan --resolved` writes one")
    if plain["resolved_grid"] != FORMAT_VERSION:
        raise UserError(f"{path}: is of version {plain['resolved_grid']!r}; this mnistbench reads {FORMAT_VERSION}")
    try:
        return _resolved(plain)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}); write it again with `plan`") from None


def _resolved(plain: dict[str, Any]) -> ResolvedGrid:
    name, yaml, missing = plain["name"], plain["yaml"], plain["on_missing_device"]
    if not isinstance(name, str) or not isinstance(yaml, str) or missing not in ("error", "skip"):
        raise ValueError("name, yaml or on_missing_device")
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"the name {name!r} is no folder's")
    return ResolvedGrid(
        name=name,
        dataset=Component.from_json(plain["dataset"]),
        fallback=None if plain["fallback"] is None else Component.from_json(plain["fallback"]),
        on_missing_device=missing,
        cells=[_cell(item) for item in plain["cells"]],
        yaml=yaml,
    )


def _cell(plain: dict[str, Any]) -> Cell:
    cell = Cell.from_json({key: value for key, value in plain.items() if key != "cell_id"})
    if cell.cell_id != plain["cell_id"]:
        raise ValueError(f"cell {plain['cell_id']} has other settings than its id")
    return cell
