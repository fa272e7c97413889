"""Blocks of speed as tables: one row a block, cycles by settings, and the speed of one setting."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnistbench.report.estimator import ENOUGH_CYCLES, Booleans, Floats
from mnistbench.report.frame import frame_of
from mnistbench.report.statistics import Interval, t_interval
from mnistbench.results.records import TRAINING_REVISION, plain_of
from mnistbench.results.speed import UNKNOWN, TimedSession, rows_of_blocks
from mnistbench.results.this_machine import recognized

NOT_TRAINED = "not trained yet"
"""In the place of a record's status: the setting has blocks of speed only."""
BLOCK_OVERHEAD_SECONDS = 0.2
"""What a block costs besides its own seconds, where its file does not say: a process, its set-up and its warm-up."""

_DTYPES = {
    "session": "str", "started_at": "str", "protocol": "Int64", "machine_id": "str", "torch": "str", "device_id": "str",
    "cycle": "int64", "position": "int64", "settings": "str", "device": "str", "label": "str", "equivalence": "str",
    "pid": "Int64", "steps": "int64", "examples": "int64", "seconds": "float64", "examples_per_second": "float64",
    "waited_seconds": "float64", "throttled_seconds": "float64", "gpu_slowdown": "boolean", "cause": "str",
    "error": "str", "wall_seconds": "float64",
}  # fmt: skip


def blocks_frame(sessions: Iterable[TimedSession] = ()) -> pd.DataFrame:
    """One row a block, the columns of `speed.csv`; `settings` are the same as in `results_frame`."""
    rows = ({**row, "machine_id": recognized(str(row["machine_id"]))} for row in rows_of_blocks(sessions))
    return frame_of(rows, _DTYPES)


def not_trained(sessions: Iterable[TimedSession], runs: pd.DataFrame, asked: Collection[str]) -> list[dict[str, Any]]:
    """What stands for the record of each setting that was timed and has none on that machine and build.

    Args:
        runs: of `results_frame`.
        asked: ids of the grid's cells, which leave out settings that are in it no more.
    """
    known = set(zip(runs["machine_id"], runs["torch"], runs["settings"], strict=True))
    stand_ins = {}
    for session in sessions:
        about = session.about
        for key in {block.setting for block in session.blocks.values() if block.seconds is not None}:
            place, cell = (recognized(about.machine), about.build, key), session.settings[key].cell
            if place not in known and about.environment is not None and cell.cell_id in asked:
                stand_ins[place] = {
                    "record_id": key, "cell_id": cell.cell_id, "status": NOT_TRAINED, "cell": cell.to_json(),
                    "training_revision": TRAINING_REVISION, "protocol": about.protocol, "epochs": [],
                    "started_at": about.started_at, "environment": plain_of(about.environment),
                }  # fmt: skip
    return list(stand_ins.values())


def undisturbed(values: Floats, clean: Booleans) -> tuple[Floats, bool]:
    """The clean ones of one setting's values, or all where fewer than ten are clean, and whether that is so."""
    busy = bool(clean.sum() < min(ENOUGH_CYCLES, len(values)))
    return (values if busy else values[clean]), busy


def is_clean(blocks: pd.DataFrame) -> pd.Series[bool]:
    """Whether each block has no cause."""
    return blocks["cause"].isna() | (blocks["cause"] == UNKNOWN)


NO_BLOCKS = blocks_frame()
"""Of a folder whose speeds nobody timed."""


@dataclass(frozen=True)
class CycleTable:
    """Settings that one machine and build timed, cycle by cycle.

    Attributes:
        settings: of the columns.
        values: logarithm of the rate [cycle, setting], NaN where there is no block.
        clean: [cycle, setting], whether the block has no cause.
        looks: of each cycle, the number of its session in order of time, from 0.
        seconds_a_cycle: about how long one takes.
    """

    settings: Sequence[str]
    values: Floats
    clean: Booleans
    looks: NDArray[np.int64]
    seconds_a_cycle: float = math.nan

    @property
    def taken(self) -> int:
        """Cycles that the two settings with the fewest have in common; a plan lacks the others (`plan_cycles`)."""
        there = np.isfinite(self.values).astype(np.int64)
        return int((there.T @ there).min(initial=len(there)))

    def column(self, settings: str) -> tuple[Floats, bool]:
        """The values of a setting's clean blocks, or of all where fewer than ten are clean, and whether that is so."""
        place = self.settings.index(settings)
        there = np.isfinite(self.values[:, place])
        return undisturbed(self.values[there, place], self.clean[there, place])

    def speed(self, settings: str) -> Interval:
        """Geometric mean of the rate of one setting, with a t interval on logarithms at 95 %."""
        values, busy = self.column(settings)
        low, high = t_interval(values) if len(values) > 1 else (math.nan, math.nan)
        kind = f"95 % of {len(values)} blocks" if len(values) > 1 else "one block"
        mean, low, high = (math.exp(value) for value in (float(values.mean()), low, high))
        return Interval(mean, low, high, len(values), f"{kind}, busy" if busy else kind)


def cycle_table(blocks: pd.DataFrame, *, unit: Literal["examples", "steps"] = "examples") -> CycleTable:
    """The blocks of one machine and build by cycle and setting, as logarithms of examples or steps a second."""
    timed = blocks[blocks["seconds"].notna()]
    keys = [timed["started_at"], timed["session"], timed["cycle"], timed["settings"]]
    cells = pd.DataFrame({"value": np.log(timed[unit] / timed["seconds"]), "clean": is_clean(timed)}).set_index(
        pd.MultiIndex.from_arrays(keys, names=["started_at", "session", "cycle", "settings"])
    )
    wide = cells.unstack("settings")
    if wide.empty:
        return CycleTable([], np.empty((0, 0)), np.empty((0, 0), bool), np.empty(0, np.int64))
    sessions = wide.index.get_level_values("session")
    wall = timed["wall_seconds"].fillna(timed["seconds"] + BLOCK_OVERHEAD_SECONDS)
    return CycleTable(
        settings=list(wide["value"].columns),
        values=wide["value"].to_numpy(dtype=float),
        clean=wide["clean"].to_numpy() == True,  # noqa: E712  # what is missing is not clean
        looks=pd.factorize(sessions)[0].astype(np.int64),
        seconds_a_cycle=float(wall.groupby([timed["session"], timed["cycle"]]).sum().median()),
    )


def halves(table: CycleTable) -> dict[str, float]:
    """A/A: how far two random halves of each setting's blocks are from each other, as a log ratio (rule 3)."""
    random = np.random.default_rng(0)
    differences = {}
    for settings in table.settings:
        values, _ = table.column(settings)
        if len(values) >= ENOUGH_CYCLES:
            mixed = random.permutation(values)
            differences[settings] = float(mixed[::2].mean() - mixed[1::2].mean())
    return differences
