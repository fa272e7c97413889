"""Rows of frames as objects with one field a column, for code that draws or words them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row, in order."""
    return iter(frame.itertuples(index=False))


def highest(frame: pd.DataFrame, column: str) -> Any:
    """The row with the largest number in this column; at least one must be known."""
    return next(rows_of(frame.dropna(subset=[column]).sort_values(column, ascending=False, kind="stable")))


def lowest(frame: pd.DataFrame, column: str) -> Any:
    """The row with the smallest number in this column; at least one must be known."""
    return next(rows_of(frame.dropna(subset=[column]).sort_values(column, kind="stable")))
