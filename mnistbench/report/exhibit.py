"""What each exhibit of the report is made of: a table, or one line that says why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Exhibit:
    """The answer to one question, as data; charts and pages are made from it elsewhere.

    Attributes:
        frame: the table; empty when there is no data. Accuracies are shares in [0, 1], times seconds.
        reason: one line saying why `frame` is empty; "" when it is not.
        notes: sentences made from the data that belong beside the table: caveats, what is left out.
    """

    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    reason: str = ""
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.frame.empty


def nothing(reason: str, notes: Sequence[str] = ()) -> Exhibit:
    """An exhibit without data."""
    return Exhibit(pd.DataFrame(), reason, tuple(notes))


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row, in order."""
    return iter(frame.itertuples(index=False))


def highest(frame: pd.DataFrame, column: str) -> Any:
    """The row with the largest number in this column; at least one must be known."""
    return next(rows_of(frame.dropna(subset=[column]).sort_values(column, ascending=False, kind="stable")))


def lowest(frame: pd.DataFrame, column: str) -> Any:
    """The row with the smallest number in this column; at least one must be known."""
    return next(rows_of(frame.dropna(subset=[column]).sort_values(column, kind="stable")))
