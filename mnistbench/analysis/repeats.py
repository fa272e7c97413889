"""The runs of the same settings on one machine and build, drawn together from a frame of thousands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Repeats:
    """All runs of the same settings in one group.

    Attributes:
        first: a run's columns, for what all of them share.
        columns: the values of each column, one a run.
    """

    group: str
    settings: str
    first: Mapping[str, Any]
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["settings"])

    def floats(self, column: str, missing: float = np.nan) -> NDArray[np.float64]:
        """A column as numbers; what is missing becomes `missing`."""
        values = self.columns[column].astype(float)
        return values if np.isnan(missing) else np.where(np.isnan(values), missing, values)

    def known(self, column: str) -> list[float]:
        """The numbers that are there."""
        values = self.floats(column)
        return [float(value) for value in values[~np.isnan(values)]]

    def texts(self, column: str, missing: str = "") -> set[str]:
        """The different texts of a column."""
        return {text if isinstance(text, str) else missing for text in self.columns[column]}

    def flags(self) -> str:
        """The flags of all runs, each once."""
        return "; ".join(sorted({flag for text in self.texts("flags") for flag in text.split("; ") if flag}))


def repeats(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[Repeats]:
    """Runs by (group, settings), in order of first appearance, with the columns asked for.

    Ten thousand rows are cut by one sort of each column: pandas' own groups of frames cost a hundred times as much.
    """
    if rows.empty:
        return
    numbers = rows.groupby(["group", "settings"], sort=False).ngroup().to_numpy()
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    wanted = dict.fromkeys(("group", "settings", *columns))
    split = {name: np.split(_plain(rows[name])[order], cuts) for name in wanted}
    for index in range(len(cuts) + 1):
        values = {name: parts[index] for name, parts in split.items()}
        first = {name: _python(part[0]) for name, part in values.items()}
        yield Repeats(first["group"], first["settings"], first, values)


def _plain(values: pd.Series[Any]) -> NDArray[Any]:
    if isinstance(values.dtype, pd.BooleanDtype | pd.Int64Dtype):
        return values.to_numpy(dtype=float, na_value=np.nan)
    return values.to_numpy()


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
