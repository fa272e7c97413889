"""Settings as the verdicts see them: what their seeds did, and why some may not be ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.blocks import NO_BLOCKS, NOT_TRAINED
from mnistbench.report.labels import labels, shortened
from mnistbench.report.repeats import Repeats, counted, measured, repeats
from mnistbench.report.statistics import ACCURACY_FLOOR, INTERVAL_SEEDS
from mnistbench.results.records import RESULTS

Metric = Literal["examples_per_second", "cold_seconds", "seconds_to_target", "test_accuracy"]

PASSED = {"passed", "reference", "equivalent up to masks"}
"""Outcomes of the equivalence gate after which a ratio may be printed."""
UNTESTED = "outcome untested"
"""The gate passed as far as it goes, and reduced precision or dropout still wants ten seeds a side (G4)."""


@dataclass(frozen=True)
class Sample:
    """All seeds of the same settings in one group.

    Attributes:
        values: of the metric by seed; infinite where the target was not reached.
        steps: median number of steps to the target, for a time to target.
        bounded: most seeds did not reach the target, and `steps` are those of the whole training: a lower bound.
        obstacle: why its speed gets no verdict; "" when it may.
        hidden: why not even a ratio may be printed: the equivalence gate did not pass.
        unranked: why it is ranked nowhere, in accuracy neither (`unranked`); "" when it may.
    """

    settings: str
    label: str
    device: str
    values: Mapping[int, float]
    steps: float = math.nan
    bounded: bool = False
    obstacle: str = ""
    hidden: str = ""
    unranked: str = ""

    @property
    def median(self) -> float:
        """Median over the seeds; NaN where there are none."""
        return float(np.median(list(self.values.values()))) if self.values else math.nan


def samples(frame: pd.DataFrame, metric: Metric, blocks: pd.DataFrame) -> dict[str, list[Sample]]:
    """The settings of each group (machine, torch build, protocol) that have a value of the metric, or blocks."""
    frame = settled(frame, blocks)
    rows = measured(frame, RESULTS)
    target = metric == "seconds_to_target"
    if target:
        rows = rows[rows["reached"].notna()]
    names, timed = labels(frame), set(blocks["settings"])
    by_group: dict[str, list[Sample]] = {}
    for runs in repeats(rows):
        values = runs.floats(metric, math.inf if target else math.nan)
        known = ~np.isnan(values) & (target | (runs["status"] == "finished"))
        if not known.any() and not (metric == "examples_per_second" and runs.settings in timed):
            continue
        sample = Sample(
            settings=runs.settings,
            label=names[runs.settings],
            device=runs.first("device"),
            values=dict(zip(runs["seed"][known].tolist(), values[known].tolist(), strict=True)),
            steps=steps_to_target(runs),
            bounded=target and bool(np.isinf(np.median(values))),
            obstacle=obstacle(runs),
            hidden=gate(runs, PASSED | {UNTESTED}),
            unranked=unranked(runs),
        )
        by_group.setdefault(runs.group, []).append(sample)
    return by_group


def for_show(frame: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """The runs that count, named by what tells them apart, in groups that name the protocol their speeds are from."""
    frame = shortened(counted(frame))
    timed = set(zip(blocks["machine_id"], blocks["torch"], blocks["protocol"], strict=True))
    for machine, torch, protocol in timed:
        here = (frame["machine_id"] == machine) & (frame["torch"] == torch)
        named = frame["group"].str.replace(r" · protocol \d+", f" · protocol {protocol}", regex=True)
        frame = frame.assign(group=frame["group"].mask(here, named))
    return frame


def steps_to_target(runs: Repeats) -> float:
    """Median over the seeds; a seed that did not reach the target counts with the steps of all its epochs."""
    epochs = runs.floats("epochs_to_target")
    epochs = np.where(np.isnan(epochs), runs.floats("epochs"), epochs)
    return float(np.median(epochs)) * steps_per_epoch(runs)


def steps_per_epoch(runs: Repeats) -> float:
    """Steps in an epoch; NaN where none was finished."""
    done = runs.floats("epochs_done") > 0
    return float(np.median(runs.floats("steps")[done] / runs.floats("epochs_done")[done])) if done.any() else math.nan


def blocks_of(blocks: pd.DataFrame, frame: pd.DataFrame, group: str) -> pd.DataFrame:
    """The blocks that the machine and build of a group took, of settings that it has records of.

    Where the machine had several GPUs, blocks of a session that does not say which are nobody's.
    """
    rows = frame[(frame["group"] == group) & (frame["repeat"] == 0)]
    if rows.empty or blocks.empty:
        return blocks.iloc[:0]
    first = rows.iloc[0]
    here = (blocks["machine_id"] == first["machine_id"]) & (blocks["torch"] == first["torch"])
    gpus = set(rows["device_id"].dropna())
    if gpus:
        is_one_of_several = group.endswith(tuple(gpus))  # its name says which
        here &= blocks["device_id"].isin(gpus) | (blocks["device_id"].isna() & (not is_one_of_several))
    timed: pd.DataFrame = blocks[here & blocks["settings"].isin(set(rows["settings"]))]
    return timed


def with_gate_of_blocks(frame: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """Records that the gate did not see take what their setting's blocks on that machine and build say of it; a failure
    in any session there counts for all of them.
    """
    place = ["machine_id", "torch", "settings"]
    said = blocks.dropna(subset="equivalence")[[*place, "equivalence"]].drop_duplicates()
    if said.empty:
        return frame
    said = said.iloc[np.argsort(~said["equivalence"].str.startswith("failed"), kind="stable")].drop_duplicates(place)
    told = frame[place].merge(said, on=place, how="left")["equivalence"].set_axis(frame.index)
    failed = told.fillna("").str.startswith("failed")
    judged: pd.DataFrame = frame.assign(equivalence=frame["equivalence"].fillna(told).mask(failed, told))
    return judged


def unranked(runs: Repeats) -> str:
    """Why these runs are shown and ranked nowhere, or "": older code made them, their equivalence gate
    failed, or there are only blocks of them.
    """
    if runs.texts("status") == {NOT_TRAINED}:
        return NOT_TRAINED
    if outdated := sorted(runs.texts("outdated") - {""}):
        return f"outdated: {outdated[0]}"
    failed = sorted(text for text in runs.texts("equivalence") if text.startswith("failed"))
    return f"equivalence: {failed[0]}" if failed else ""


def may_be_ranked(rows: pd.DataFrame, frame: pd.DataFrame) -> list[bool]:
    """Of each row whether its settings may, by their finished runs in the frame."""
    done = frame[(frame["status"] == "finished") & (frame["repeat"] == 0)]
    nowhere = {(runs.group, runs.settings) for runs in repeats(done) if unranked(runs)}
    return [key not in nowhere for key in zip(rows["group"], rows["settings"], strict=True)]


def obstacle(runs: Repeats) -> str:
    """Why the speed of these settings may not be ranked, or "" (rule 14)."""
    if reason := unranked(runs):
        return reason
    if runs.texts("isolation") != {"alone"}:
        return "ran beside other cells"
    return gate(runs)


def gate(runs: Repeats, accepted: set[str] = PASSED) -> str:
    """Why the equivalence gate forbids a ratio, or ""."""
    failed = sorted(runs.texts("equivalence", missing="not checked") - accepted)
    return f"equivalence: {failed[0]}" if failed else ""


def settled(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> pd.DataFrame:
    """The runs that count. `outcome untested` gives way to the outcome test (G4) where ten seeds a side allow it.

    The 90 % interval of the difference in test accuracy to the same cells in full precision has to lie inside ±0.3
    points.
    """
    frame = with_gate_of_blocks(counted(frame), blocks)
    untested = frame[(frame["equivalence"] == UNTESTED) & (frame["fp32_settings"] != frame["settings"])]
    if untested.empty:
        return frame
    settled = frame.copy()
    for (group, settings, full), rows in untested.groupby(["group", "settings", "fp32_settings"]):
        here = (frame["group"] == group) & (frame["repeat"] == 0) & (frame["status"] == "finished")
        sides = [frame.loc[here & (frame["settings"] == side), "test_accuracy"].dropna() for side in (settings, full)]
        if min(map(len, sides)) < INTERVAL_SEEDS:
            continue
        low, high = statistics.welch(sides[0].to_numpy(), sides[1].to_numpy()).interval(0.1)
        inside = max(-low, high) < ACCURACY_FLOOR
        settled.loc[rows.index, "equivalence"] = "passed" if inside else "failed: outcome differs by over 0.3 points"
    return settled


def accuracy_of(runs: Repeats) -> dict[str, Any]:
    """What tables show of test accuracy; a diverged seed counts with its last evaluation."""
    shown = statistics.summarize(runs.known("test_accuracy"), logarithmic=False)
    return {
        **shown.columns("test_accuracy"),
        "low": max(0.0, shown.low) if shown.n > 1 else math.nan,
        "high": min(1.0, shown.high) if shown.n > 1 else math.nan,
        "diverged": int((runs["status"] == "diverged").sum()),
        "unranked": unranked(runs),
    }
