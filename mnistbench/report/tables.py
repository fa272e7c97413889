"""Frames to tables of the page: every cell a text that reads well, with the number behind it to sort and copy by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mnistbench.words import wording as f

UNREACHED = 1.7e308
"""Sorts behind every time that was reached; larger numbers are not finite to JavaScript."""

_TEXTS: dict[str, Callable[[Any], str]] = {
    "seconds": f.seconds_text,
    "percent": lambda value: f.percent(value, 2),
    "share": f.percent,
    "points": f.points,
    "reachable": lambda value: f.MISSING if f.missing(value) or value == math.inf else f.seconds_text(value),
    "whole": f.whole,
    "count": f.count,
    "rate": f.rate,
    "ratio": f.times,
    "bytes": f.byte_count,
    "joules": f.joules,
    "number": lambda value: f.MISSING if f.missing(value) else f.significant(float(value), 4),
}
_MISSING_LAST = {"seconds", "count", "reachable", "whole"}
SETTING = (
    "dataset_label architecture_label optimizer_label schedule_label training_label batch_size device execution_label"
)
"""Columns that tell settings apart: a table shows those that differ."""
LONG_NAME = 12
"""Characters from which on the column of a name is kept wide enough for an option and its value."""
_SELF_SORTING = {"percent", "share", "count", "rate"}
"""Kinds whose text the browser's table library reads as a number, where nothing is missing or negative."""
_GOOD = {"faster", "better", "finished", "passed"}
_BAD = {"slower", "worse", "failed", "timed_out", "killed", "diverged"}


@dataclass(frozen=True)
class Column:
    """How one column of a frame is shown.

    Attributes:
        key: column of the frame.
        title: its heading, with the unit where the cells carry none.
        kind: `text`, `words` (may wrap between them), `name` (may wrap), `long`, `code`, `command`, `tag`, or one of
            the number kinds.
        order: another column that it sorts by.
        below: another column whose text stands smaller underneath.
        hidden: shown only when asked for.
        filtered: gets a menu of its values; hidden where all rows share one, and never where they differ.
    """

    key: str
    title: str
    kind: str = "text"
    order: str | None = None
    below: str | None = None
    hidden: bool = False
    filtered: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it stands on the right."""
        return self.kind in _TEXTS or self.order is not None


_SHARED = [
    Column("dataset_label", "dataset", "name", filtered=True, hidden=True),
    Column("architecture_label", "architecture", "name", filtered=True),
    Column("optimizer_label", "optimizer", "name", filtered=True),
    Column("schedule_label", "schedule", "name", filtered=True),
    Column("training_label", "training", "name", filtered=True, hidden=True),
    Column("execution_label", "execution", "name", filtered=True, hidden=True),
    Column("batch_size", "batch", "count", filtered=True),
    Column("device", "device", filtered=True, hidden=True),
    Column("tuning", "tuning", filtered=True),
    Column("test_accuracy", "test accuracy", "percent"),
    Column("interval", "interval"),
    Column("diverged", "diverged seeds", "count"),
    Column("unranked", "ranked nowhere", "long"),
    Column("verdict", "verdict", "tag", filtered=True),
    Column("text", "in words", "long"),
    Column("peak_share", "share of peak", "share"),
    Column("flags", "flags", "words"),
]
"""Columns that say the same in several tables."""


def shared(keys: str) -> list[Column]:
    """Those of `_SHARED` with these keys, which a space parts."""
    return [column for key in keys.split() for column in _SHARED if column.key == key]


def of_kind(kind: str, keys: str) -> list[Column]:
    """Columns of one kind that are headed by their keys, which a space parts."""
    return [Column(key, key.replace("_", " "), kind) for key in keys.split()]


@dataclass(frozen=True)
class TableCell:
    """One cell: its text, the number it sorts by, its classes, the kind of its tag, and what stands underneath."""

    text: str
    order: str | None = None
    css: str = ""
    tag: str = ""
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: id, and name of the file that its CSV button writes.
        caption: what it holds.
        notice: said above it when rows were left out.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: list[list[TableCell]]
    notice: str = ""


def table(frame: pd.DataFrame, columns: Sequence[Column], *, name: str, caption: str, most: int = 1000) -> Table:
    """A table of these columns of a frame; columns that hold nothing at all are left out.

    Args:
        frame: at least one row.
        columns: in the order shown; unknown ones are an error of ours.
        name: unique on the page.
        caption: what it holds.
        most: rows that are shown; a notice says how many are not.
    """
    kept = [
        replace(column, hidden=frame[column.key].nunique() <= 1) if column.filtered and len(frame) > 1 else column
        for column in columns
        if (frame[column.key].notna() & (frame[column.key].astype(str) != "")).any()
    ]
    head = frame.head(most)
    cells = [_slim(_column_cells(head, column), column) for column in kept]
    notice = ""
    if len(frame) > most:
        notice = f"The first {most:,} of {len(frame):,} rows are shown; the CSV files below hold every cell."
    return Table(name, caption, kept, [list(row) for row in zip(*cells, strict=True)], notice)


def _column_cells(frame: pd.DataFrame, column: Column) -> list[TableCell]:
    orders = frame[column.order or column.key]
    below = frame[column.below] if column.below else [""] * len(frame)
    return [
        _cell(value, order, str("" if f.missing(under) else under), column)
        for value, order, under in zip(frame[column.key], orders, below, strict=True)
    ]


def _slim(cells: list[TableCell], column: Column) -> list[TableCell]:
    """Leave out numbers that the text says itself: a table of 600 runs is a sixth smaller."""
    if column.kind not in _SELF_SORTING or column.order or any(not cell.text[:1].isdigit() for cell in cells):
        return cells
    return [replace(cell, order=None) for cell in cells]


def _cell(value: Any, order: Any, below: str, column: Column) -> TableCell:
    text = _TEXTS.get(column.kind, _plain)(value)
    number = _order(order, column) if column.numeric else None
    if text == f.MISSING:
        return TableCell(text, number, "n missing" if column.numeric else "missing")
    if column.kind == "tag":
        tag = "good" if text in _GOOD else "bad" if text in _BAD else "open"
        return TableCell(text.replace("_", " "), tag=tag, below=below)
    if column.numeric:
        return TableCell(text, number, "n", below=below)
    css = "" if column.kind == "text" else column.kind
    return TableCell(text, css=f"{css} wide" if css == "name" and len(text) > LONG_NAME else css, below=below)


def _plain(value: Any) -> str:
    if f.missing(value) or value == "":
        return f.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f.significant(value, 4)
    return str(value)


def _order(value: Any, column: Column) -> str:
    if f.missing(value):
        return repr(UNREACHED) if column.kind in _MISSING_LAST or column.order else ""
    number = float(value)
    return repr(UNREACHED) if number == math.inf else f"{number:.10g}"
