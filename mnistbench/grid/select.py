"""Which cells of a grid to run here: `--only architecture=lenet5`, `--shard 2/5`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError
from mnistbench.errors.problems import did_you_mean, nearest, shown
from mnistbench.grid.options import Axis, declaration
from mnistbench.grid.yaml import scalar

COMPONENTS = ("dataset", "architecture", "optimizer", "schedule", "execution")
NUMBERS = ("batch_size", "device", "seed", "repeat")


def select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that every condition admits; several values of one key are alternatives.

    Args:
        cells: of a grid.
        only: `architecture=lenet5`, `batch_size=64..512`, `batch_size=64,512`, `optimizer.lr=0.1`. Names stand for
            all their options; a label (`mlp(hidden=128-256)`) for one.

    Raises:
        UserError: if a condition cannot be read, or nothing matches.
    """
    conditions: dict[str, list[_Condition]] = {}
    for text in only:
        condition = _condition(text, cells)
        conditions.setdefault(condition.key, []).append(condition)
    chosen = [
        cell
        for cell in cells
        if all(any(item.admits(cell) for item in alternatives) for alternatives in conditions.values())
    ]
    if conditions and not chosen:
        raise UserError(_nothing(cells, [item for alternatives in conditions.values() for item in alternatives]))
    return chosen


def shard(cells: Iterable[Cell], index: int, of: int) -> list[Cell]:
    """The part of a grid that one of several machines runs.

    All seeds and twins of a setting are in one part, since settings are compared over the same seeds. The part depends
    on the setting alone, so it stays when the grid is reordered or grows.

    Args:
        cells: of a grid.
        index: which part, from 1.
        of: how many parts.

    Raises:
        UserError: if there is no such part.
    """
    if not 1 <= index <= of:
        raise UserError(f"--shard {index}/{of}: the parts are 1/{of} to {of}/{of}")
    return [cell for cell in cells if int(cell.without_seed(), 16) % of == index - 1]


@dataclass(frozen=True)
class _Condition:
    text: str
    key: str
    values: tuple[str, ...]

    def admits(self, cell: Cell) -> bool:
        values = _values(cell, self.key)
        return any(_equal(wanted, value) for wanted in self.values for value in values)


def _condition(text: str, cells: Sequence[Cell]) -> _Condition:
    key, equals, wanted = text.partition("=")
    key = key.strip()
    if not equals or not key or not wanted.strip():
        raise UserError(f"--only {shown(text)}: write KEY=VALUE, such as architecture=lenet5 or batch_size=64..512")
    known = sorted({key for cell in cells for key in _keys(cell)})
    if key not in known:
        end = did_you_mean(key, known) or nearest(key, [*COMPONENTS, *NUMBERS, "optimizer.lr", "training.epochs"])
        raise UserError(f"--only {shown(text)}: unknown key `{shown(key)}`{end}")
    whole = wanted.strip()
    return _Condition(text, key, tuple(dict.fromkeys((whole, *(part.strip() for part in _split(whole))))))


def _split(values: str) -> list[str]:
    """At commas, but for those inside brackets: labels and lists have some."""
    return values.split(",") if not set(values) & set("([") else [values]


def _keys(cell: Cell) -> list[str]:
    options = [
        f"{part}.{key}" for part in COMPONENTS for key in _complete(part, getattr(cell, part)) if key != "schedule"
    ]
    return [*COMPONENTS, *NUMBERS, *options, *(f"training.{key}" for key in vars(cell.training))]


def _values(cell: Cell, key: str) -> list[Any]:
    """What a cell has under a key: a component goes by its name and by its label."""
    part, _, option = key.partition(".")
    if option == "target_accuracy":
        return [*cell.training.targets] or [None]
    if part == "training":
        held = getattr(cell.training, option)
        return [held.name, held.label] if isinstance(held, Component) else [held]
    held = getattr(cell, part)
    if not isinstance(held, Component):
        return [held]
    if not option:
        return [held.name, held.label]
    complete = _complete(part, held)
    return [complete[option]] if option in complete else []


def _complete(part: str, component: Component) -> dict[str, Any]:
    """The options with their defaults; of a plug-in only what the cell itself says."""
    try:
        return declaration(cast("Axis", part), component.name).complete(component.options)
    except UserError:
        return dict(component.options)


def _equal(wanted: str, value: Any) -> bool:
    if isinstance(value, list):
        items = _text(value)
        return wanted.replace(" ", "") in (items, f"[{items.replace('-', ',')}]")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, dots, high = wanted.partition("..")
        bounds = [scalar(bound.strip()) for bound in (low, high)]
        if not dots:
            return bool(bounds[0] == value)
        if not all(bound is None or isinstance(bound, int | float) for bound in bounds):
            return False
        first, last = (cast("float | None", bound) for bound in bounds)
        return (first is None or first <= value) and (last is None or value <= last)
    return wanted == str(value) or ((value is None or isinstance(value, bool)) and scalar(wanted) is value)


def _text(value: Any) -> str:
    return "-".join(map(_text, value)) if isinstance(value, list) else str(value)


def _nothing(cells: Sequence[Cell], conditions: Sequence[_Condition]) -> str:
    said = []
    for condition in conditions:
        if not any(condition.admits(cell) for cell in cells):
            texts = {_text(value) for cell in cells for value in _values(cell, condition.key)[:1]}
            there = sorted(texts, key=lambda text: (len(text), text) if text.isdigit() else (0, text))
            end = did_you_mean(condition.values[0], there) or f"; there are {', '.join(there[:20])}"
            said.append(f"--only {shown(condition.text)}: no cell has it{end}")
    together = " ".join(f"--only {shown(condition.text)}" for condition in conditions)
    return "\n".join(said) or f"{together}: no cell has all of these"
