"""What a record cannot truthfully say: seconds below zero, an accuracy of 5, a day called "yesterday".

Types are checked elsewhere; what passes both can be computed with and drawn. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistbench.results.records import CellRecord

MOST = 2**63 - 1
"""What a table can hold in a column of whole numbers."""
LONGEST_SECONDS = 1e9
"""Thirty years."""
SHORTEST_SECONDS = 1e-9
"""A clock's tick; what took less is written as 0."""
SMALLEST_LOSS = 1e-60
"""Far below the smallest float32 shared among all examples of an epoch."""
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("attempt", "batch_size", "protocol", "training_revision"), (1, MOST)),
    **dict.fromkeys(("epoch", "epochs"), (1, 10**9)),
    **dict.fromkeys(
        ("round", "position", "repeat", "step", "steps", "examples", "parameters", "confusion"), (0, 10**15)
    ),
    **dict.fromkeys(("train_examples", "test_examples", "validation_examples"), (0, 10**15)),
    **dict.fromkeys(("physical_cores", "logical_cores"), (1, 10**9)),
    **dict.fromkeys(("memory_bytes", "process_peak_bytes", "device_peak_bytes"), (0, 10**18)),
    **dict.fromkeys(("train_flops_per_example", "peak_flops"), (0, 1e30)),
    **dict.fromkeys(("foreign_cpu", "steal", "throttled"), (-1, 1e6)),
    **dict.fromkeys(("train_loss", "test_loss", "validation_loss"), (-1e38, 1e38)),
    "target_accuracy": (0, 1),
    "probe": (0, LONGEST_SECONDS),
    "frequency_mhz": (0, 1e9),
}
"""The least and the most that a number may be, by its field; every other whole number is at most MOST either way."""
TIMES = ("started_at", "ended_at")


def implausible(record: CellRecord) -> str | None:
    """The first thing in a record that cannot be so, with its place and value; None if there is none."""
    return next(_problems(record), None)


def _problems(record: CellRecord) -> Iterator[str]:
    cell = record.cell
    for name in ("batch_size", "seed", "repeat"):
        if type(getattr(cell, name)) is not int:
            yield f"record.cell.{name}: {_shown(getattr(cell, name))} is no whole number"
    if not isinstance(cell.device, str):
        yield f"record.cell.device: {_shown(cell.device)} is no name"
    yield from _below(record, "record", "")
    numbers = [epoch.epoch for epoch in record.epochs]
    if numbers != sorted(set(numbers)):
        yield f"record.epochs: their numbers do not go up: {_shown(numbers)}"
    confusion = record.model.confusion if record.model else None
    if confusion is not None and any(len(row) != len(confusion) for row in confusion):
        yield "record.model.confusion: it is not square"


def _below(value: Any, place: str, name: str) -> Iterator[str]:
    """Problems of a value and of all inside it; `name` is the field that limits it."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _below(getattr(value, field.name), f"{place}.{field.name}", field.name)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _below(inner, f"{place}.{key}", name)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _below(inner, f"{place}[{index}]", name)
    elif isinstance(value, str):
        if name in TIMES and not _is_time(value):
            yield f"{place}: {_shown(value)} is no time"
    elif isinstance(value, int | float) and not isinstance(value, bool) and (problem := _problem(value, name)):
        yield f"{place}: {_shown(value)} {problem}"


def _problem(value: float, name: str) -> str | None:
    low, high = LIMITS.get(name, (-MOST, MOST) if isinstance(value, int) else (-math.inf, math.inf))
    if name.endswith("_seconds"):
        low, high = 0, LONGEST_SECONDS
        if 0 < value < SHORTEST_SECONDS:
            return "is shorter than any clock can tell"
    if name.endswith("_loss") and 0 < abs(value) < SMALLEST_LOSS:
        return "is smaller than any loss can be"
    if name.endswith("_accuracy"):
        low, high = 0, 1
    if isinstance(value, float) and not math.isfinite(value):
        return "is not finite"
    return None if low <= value <= high else f"is not within {low:g} and {high:g}"


def _is_time(text: str) -> bool:
    try:
        return 1970 <= datetime.fromisoformat(text).year <= 9000
    except ValueError:
        return False


def _shown(value: object) -> str:
    """A value as an error shows it; a number of hundreds of digits is not even turned into text."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
