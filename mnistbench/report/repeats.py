"""The runs of the same settings on one machine and build, each seed once, drawn together from a frame of thousands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnistbench.report.tables import SETTING
from mnistbench.results.records import RESULTS


class _Cuts(dict[str, list[NDArray[Any]]]):
    """Columns of a frame, cut into one array for each settings of a group when they are asked for.

    Ten thousand rows are cut by one sort of each column: pandas' own groups of frames cost a hundred times as much.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        super().__init__()
        numbers = rows.groupby(["group", "settings"], sort=False).ngroup().to_numpy()
        self.rows, self.order = rows, np.argsort(numbers, kind="stable")
        self.ends = np.flatnonzero(np.diff(numbers[self.order])) + 1

    def __missing__(self, column: str) -> list[NDArray[Any]]:
        self[column] = np.split(_plain(self.rows[column])[self.order], self.ends)
        return self[column]


@dataclass(frozen=True)
class Repeats:
    """All runs of the same settings in one group; `runs["seed"]` are the values of a column, one a run."""

    cuts: _Cuts
    number: int

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.cuts[column][self.number]

    def __len__(self) -> int:
        return len(self["settings"])

    def first(self, column: str) -> Any:
        """What a column holds that is the same in all of them."""
        value = self[column][0]
        return value.item() if isinstance(value, np.generic) else value

    @property
    def group(self) -> str:
        """Machine, build and protocol."""
        return str(self.first("group"))

    @property
    def settings(self) -> str:
        """The key of the settings."""
        return str(self.first("settings"))

    def floats(self, column: str, missing: float = np.nan) -> NDArray[np.float64]:
        """A column as numbers; what is missing becomes `missing`."""
        values = self[column].astype(float)
        return np.where(np.isnan(values), missing, values)

    def known(self, column: str, missing: float = np.nan) -> list[float]:
        """The numbers that are there."""
        values = self.floats(column, missing)
        known: list[float] = values[~np.isnan(values)].tolist()
        return known

    def median(self, column: str, missing: float = np.nan) -> float:
        """Of the numbers that are there; NaN where there are none."""
        known = self.known(column, missing)
        return float(np.median(known)) if known else np.nan

    def texts(self, column: str, missing: str = "") -> set[str]:
        """The different texts of a column."""
        return {text if isinstance(text, str) else missing for text in self[column]}

    def flags(self, *, timed: bool = False) -> str:
        """The flags of all runs, each once; `short` is no flag of a speed that was timed by blocks (rule 8)."""
        flags = {flag for text in self.texts("flags") for flag in text.split("; ") if flag}
        return "; ".join(sorted(flags - ({"short"} if timed else set())))


def repeats(rows: pd.DataFrame) -> Iterator[Repeats]:
    """Runs by (group, settings), in order of first appearance."""
    cuts = _Cuts(rows)
    return (Repeats(cuts, number) for number in range(len(cuts.ends) + 1 if len(rows) else 0))


def _plain(values: pd.Series[Any]) -> NDArray[Any]:
    if isinstance(values.dtype, pd.BooleanDtype | pd.Int64Dtype):
        return values.to_numpy(dtype=float, na_value=np.nan)
    return values.to_numpy()


def measured(frame: pd.DataFrame, statuses: Iterable[str]) -> pd.DataFrame:
    """The runs of these statuses that say where they ran, twins apart."""
    return frame[frame["status"].isin(set(statuses)) & (frame["group"] != "") & (frame["repeat"] == 0)]


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that count, with the twins that show the noise; asking twice changes nothing.

    Left out are trials of learning rates, runs of older code where newer ones of the same settings are there, all but
    the latest result of the same seed (a seed run in five sessions is one repeat), and seeds that trained to the same
    weights as an earlier one (`equal_seeds`).
    """
    return without_equal_seeds(one_per_seed(without_older(without_trials(frame))))


def without_older(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs of older code (column `outdated`) only where nothing newer has run with their settings."""
    old = frame["outdated"].notna()
    if not old.any():
        return frame
    newer = (~old & frame["status"].isin(RESULTS)).groupby([frame["group"], frame["settings"]]).transform("any")
    return frame[~(old & newer)]


def one_per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Of runs with the same settings and seed on one machine and build the latest result, or else the latest run."""
    keys = ["group", "settings", "repeat", "seed"]
    if not frame.duplicated(keys).any():
        return frame
    ordered = frame.assign(_answered=frame["status"].isin(RESULTS)).sort_values(
        ["_answered", "started_at"], kind="stable"
    )
    return frame[frame.index.isin(ordered.drop_duplicates(keys, keep="last").index)]


def equal_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Seeds whose training ended in the weights of another seed: they are one run, which no repeat is.

    Columns: group, settings, seeds (list, in ascending order; the first is the one that counts).
    """
    keys = ["group", "settings", "weights_sha256"]
    known = frame[(frame["status"] == "finished") & (frame["repeat"] == 0) & frame["weights_sha256"].notna()]
    seeds = known[[*keys, "seed"]].drop_duplicates().sort_values("seed")
    equal = seeds[seeds.duplicated(keys, keep=False)]
    return equal.groupby(keys, sort=False)["seed"].agg(list).rename("seeds").reset_index().drop(columns=keys[2])


def without_equal_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with one of each group of `equal_seeds`."""
    equal = equal_seeds(frame).to_dict("records")
    same = {(row["group"], row["settings"], seed) for row in equal for seed in row["seeds"][1:]}
    if not same:
        return frame
    places = zip(frame["group"], frame["settings"], frame["seed"], strict=True)
    return frame.loc[[place not in same for place in places]]


def curve_points(frame: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Epochs of the runs that gave a result, twins apart, with the settings' columns."""
    kept = measured(counted(frame), RESULTS)
    return epochs.merge(kept[["record_id", "group", *SETTING.split()]], on="record_id")


def without_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells that were measured: all but the trials of learning rates."""
    return frame[frame["kind"] != "trial"]
