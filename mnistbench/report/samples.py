"""Runs as the verdicts see them: repeats of the same settings, the rounds that pair them, and the noise around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.labels import labels
from mnistbench.report.repeats import Repeats, counted, repeats
from mnistbench.report.statistics import Floats, Spread
from mnistbench.results.records import RESULTS

Metric = Literal["examples_per_second", "cold_seconds", "seconds_to_target", "cold_seconds_to_target", "test_accuracy"]

PASSED = {"passed", "reference", "equivalent up to masks"}
"""Outcomes of the equivalence gate after which a ratio may be printed."""
ACCURACY_FLOOR = 0.003
"""Accuracies within 0.3 points are the same: the margin of the gate's G4."""
UNTESTED = "outcome untested"
"""The gate passed as far as it goes, and reduced precision or dropout still wants ten seeds a side (G4)."""
NEEDED: dict[Metric, int] = {
    "examples_per_second": 3,
    "cold_seconds": 3,
    "seconds_to_target": 5,
    "cold_seconds_to_target": 5,
    "test_accuracy": 10,
}
"""Rounds from which on a metric gets verdicts (rule 18)."""


@dataclass(frozen=True)
class Sample:
    """All rounds of the same settings in one group.

    Attributes:
        values: by round, on the scale of the test: log of the speed (log of 1 ÷ seconds; −inf where the target was not
            reached), or the accuracy.
        obstacle: why its speed gets no verdict; "" when it may.
        hidden: why not even a ratio may be printed: the equivalence gate did not pass.
        unranked: why it is ranked nowhere, in accuracy neither (`unranked`); "" when it may.
    """

    settings: str
    label: str
    device: str
    values: dict[tuple[Any, ...], float]
    obstacle: str = ""
    hidden: str = ""
    unranked: str = ""

    @property
    def median(self) -> float:
        """Median on the scale of the test."""
        return float(np.median(list(self.values.values())))


@dataclass(frozen=True)
class Field:
    """The samples of one group, and what is known of the noise of each device."""

    group: str
    samples: list[Sample]
    spreads: dict[str, Spread | None] = field(default_factory=dict)
    twins: dict[str, list[float]] = field(default_factory=dict)

    def floor(self, devices: set[str], rounds: int) -> float:
        """Noise floor of a pair: the larger one of its devices."""
        return max(
            statistics.noise_floor(
                spread.sd if (spread := self.spreads.get(device)) else None, self.twins.get(device, []), rounds
            )
            for device in devices
        )


def fields(frame: pd.DataFrame, metric: Metric) -> Iterator[Field]:
    """The samples of each group (machine, torch build, protocol); twins only tell of the noise."""
    usable = measured(settle_outcomes(counted(frame)), metric)
    if usable.empty:
        return
    names = labels(frame)
    runs = list(repeats(usable[usable["repeat"] == 0], _COLUMNS))
    for group, part in usable.groupby("group", sort=False):
        samples = [
            Sample(
                settings=run.settings,
                label=names[run.settings],
                device=run.first["device"],
                values=dict(zip(run.columns["_block"], run.columns["_value"].tolist(), strict=True)),
                obstacle=obstacle(run),
                hidden=gate(run, PASSED | {UNTESTED}),
                unranked=unranked(run),
            )
            for run in runs
            if run.group == group
        ]
        devices = sorted(set(part["device"]))
        yield Field(
            group=str(group),
            samples=samples,
            spreads={device: _spread([item for item in samples if item.device == device]) for device in devices},
            twins={device: _twin_differences(part[part["device"] == device]) for device in devices},
        )


_COLUMNS = ["device", "isolation", "short", "equivalence", "outdated", "_block", "_value"]


def unranked(runs: Repeats) -> str:
    """Why these runs are shown and ranked nowhere, or "": older code made them, or their equivalence gate failed."""
    outdated = sorted(runs.texts("outdated") - {""})
    if outdated:
        return f"outdated: {outdated[0]}"
    failed = sorted(text for text in runs.texts("equivalence") if text.startswith("failed"))
    return f"equivalence: {failed[0]}" if failed else ""


def unranked_settings(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """The reason by (group, settings) for those of a frame that are ranked nowhere."""
    rows = frame[(frame["status"] == "finished") & (frame["repeat"] == 0)]
    found = {(runs.group, runs.settings): unranked(runs) for runs in repeats(rows, ["outdated", "equivalence"])}
    return {key: reason for key, reason in found.items() if reason}


def obstacle(runs: Repeats) -> str:
    """Why the speed of these runs may not be ranked, or "" (rules 8 and 14)."""
    if reason := unranked(runs):
        return reason
    if runs.texts("isolation") != {"alone"}:
        return "ran beside other cells"
    if runs.columns["short"].any():
        return "short: timed under 1 s or 50 steps"
    return gate(runs)


def gate(runs: Repeats, accepted: set[str] = PASSED) -> str:
    """Why the equivalence gate forbids a ratio, or ""."""
    failed = sorted(runs.texts("equivalence", missing="not checked") - accepted)
    return f"equivalence: {failed[0]}" if failed else ""


def settle_outcomes(frame: pd.DataFrame) -> pd.DataFrame:
    """Put the outcome test (G4) in the place of `outcome untested`, where ten seeds a side allow it.

    The 90 % interval of the difference in test accuracy to the same cells in full precision has to lie inside ±0.3
    points.
    """
    untested = frame[(frame["equivalence"] == UNTESTED) & (frame["fp32_settings"] != frame["settings"])]
    if untested.empty:
        return frame
    settled = frame.copy()
    for (group, settings, full), rows in untested.groupby(["group", "settings", "fp32_settings"]):
        here = (frame["group"] == group) & (frame["repeat"] == 0) & (frame["status"] == "finished")
        sides = [frame.loc[here & (frame["settings"] == side), "test_accuracy"].dropna() for side in (settings, full)]
        if min(map(len, sides)) < NEEDED["test_accuracy"]:
            continue
        difference = statistics.unpaired_difference(sides[0].to_numpy(), sides[1].to_numpy(), confidence=0.9)
        inside = max(-difference.low, difference.high) < ACCURACY_FLOOR
        settled.loc[rows.index, "equivalence"] = "passed" if inside else "failed: outcome differs by over 0.3 points"
    return settled


def measured(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Rows that hold the metric, with its value on the scale of the test and the round that pairs it."""
    rows = frame[(frame["status"] == "finished") & (frame["group"] != "")]
    if metric in ("seconds_to_target", "cold_seconds_to_target"):
        answered = frame["status"].isin(RESULTS)
        rows = frame[answered & (frame["group"] != "") & frame["reached"].notna()]
        values = -np.log(rows[metric].fillna(np.inf))
    elif metric == "examples_per_second":
        rows = rows[rows[metric] > 0]
        values = np.log(rows[metric])
    elif metric == "cold_seconds":
        rows = rows[rows[metric] > 0]
        values = -np.log(rows[metric])
    else:
        rows = rows[rows[metric].notna()]
        values = rows[metric]
    keys = ["group", "settings", "repeat", "source", "round", "seed"]
    again = rows.groupby(keys).cumcount()
    blocks = list(zip(rows["source"], rows["round"], rows["seed"], again, strict=True))
    return rows.assign(_value=values, _block=pd.Series(blocks, index=rows.index, dtype=object))


def _spread(samples: list[Sample]) -> Spread | None:
    """Pooled over the cells of a device, up to 12 of them (rule 15)."""
    if not 2 <= len(samples) <= statistics.POOLED_CELLS:
        return None
    blocks = sorted({block for sample in samples for block in sample.values})
    table = np.array([[sample.values.get(block, np.nan) for sample in samples] for block in blocks])
    return statistics.pooled_spread(table)


def _twin_differences(rows: pd.DataFrame) -> list[float]:
    """Differences of A/A pairs: the same cell twice in one round, on the scale of the test."""
    twins = rows[rows["repeat"] > 0]
    if twins.empty:
        return []
    first = rows[rows["repeat"] == 0][["settings", "_block", "_value"]]
    both = twins[["settings", "_block", "_value"]].merge(first, on=["settings", "_block"], suffixes=("", "_first"))
    gaps: Floats = (both["_value"] - both["_value_first"]).to_numpy(dtype=float)
    return [float(gap) for gap in gaps if math.isfinite(gap)]
