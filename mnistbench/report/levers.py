"""What each speed lever buys: one added to a profile, one left out of it (rule 19)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.labels import labels
from mnistbench.report.repeats import counted
from mnistbench.report.speed import ratio_columns
from mnistbench.report.verdicts import Pair, compare

PROFILES = ("plain", "fast")
START_UP_LEVERS = ("compile", "graph")
"""Parts of the names of levers that cost something before the first step, and so have a break-even point."""


def lever_effects(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """Cells that differ from a bare profile (`plain`, `fast`) in levers only, against that profile.

    Columns: group, device, series (all but the execution), architecture_label, optimizer_label, batch_size, kind
    (`add-one`, `leave-one-out`, `profile` for fast against plain, `several` for more than one lever), profile, lever
    (`precision=bf16`, …), settings, settings_profile, n, ratio (throughput with the lever set over the bare profile;
    below 1 in leave-one-out means that the lever left out was worth 1 ÷ ratio), low, high, verdict, reason, text,
    peak_share, profile_peak_share (medians, of the cell with the lever and of the profile), break_even_examples (for
    compile and graphs: examples after which the start-up has paid for itself; inf when never, NaN where it does not
    apply).
    """
    frame = counted(frame)
    rows = frame[(frame["group"] != "") & (frame["repeat"] == 0) & (frame["status"] == "finished")]
    if rows["execution_label"].nunique() < 2:
        return nothing("All cells ran with the same execution, so there is nothing to say of single levers.")
    chosen = _lever_pairs(rows)
    by_group = compare(frame, "examples_per_second", blocks, chosen)
    pairs = [(group, pair) for group, own in by_group.items() for pair in own]
    if not pairs:
        return nothing("No cell differs from a bare profile in its levers only, on the same machine and build.")
    series = labels(frame, "any_execution", without=("execution",))
    about = {row["settings"]: row for row in rows.drop_duplicates("settings").to_dict("records")}
    medians = rows.groupby(["group", "settings"])[
        ["peak_share", "setup_seconds", "warmup_seconds", "examples_per_second"]
    ].median()
    costs = {key: {str(name): value for name, value in row.items()} for key, row in medians.to_dict("index").items()}
    table = []
    for group, pair in pairs:
        with_lever, profile = about[pair.a.settings], about[pair.b.settings]
        kind, lever = _change(str(with_lever["execution_label"]), str(profile["execution"]))
        columns = ratio_columns(pair)
        aside = dict(part.partition(": ")[::2] for part in str(with_lever["stepped_aside"]).split("; ") if part)
        if lever.partition("=")[0] in aside:
            reason = f"stepped aside: {aside[lever.partition('=')[0]]}"
            columns |= {"verdict": "", "reason": reason, "text": reason}
        sides = costs[group, pair.a.settings], costs[group, pair.b.settings]
        table.append(
            {
                "group": group,
                "device": pair.a.device,
                "series": series[with_lever["any_execution"]],
                **{name: with_lever[name] for name in ("architecture_label", "optimizer_label", "batch_size")},
                "kind": kind,
                "profile": profile["execution"],
                "lever": lever,
                "settings": pair.a.settings,
                "settings_profile": pair.b.settings,
                **columns,
                "peak_share": sides[0]["peak_share"],
                "profile_peak_share": sides[1]["peak_share"],
                "break_even_examples": _break_even(pair, kind, lever, sides)
                if not math.isnan(columns["ratio"])
                else math.nan,
            }
        )
    order = ["group", "series", "profile", "kind", "lever"]
    return Exhibit(pd.DataFrame(table).sort_values(order, ignore_index=True))


def _lever_pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(settings with levers, settings of the bare profile), and fast against plain."""
    pairs = []
    for _, same in rows.drop_duplicates("settings").groupby("any_execution", sort=False):
        bare = {
            str(row["execution"]): str(row["settings"])
            for row in same.to_dict("records")
            if row["execution_label"] == row["execution"]
        }
        for row in same.to_dict("records"):
            settings, profile = str(row["settings"]), str(row["execution"])
            if settings not in bare.values() and profile in bare:
                pairs.append((settings, bare[profile]))
        if {"plain", "fast"} <= set(bare):
            pairs.append((bare["fast"], bare["plain"]))
    return pairs


def _change(label: str, profile: str) -> tuple[str, str]:
    """Kind and name of what sets an execution apart from a profile, from its label `fast(precision=bf16)`."""
    name, _, inside = label.partition("(")
    if not inside:
        return "profile", name
    options = inside.removesuffix(")").split(", ")
    if len(options) > 1:
        return "several", ", ".join(options)
    lever, _, value = options[0].partition("=")
    off = _plain_levers().get(lever)
    left_out = profile != "plain" and off is not None and value == off
    return "leave-one-out" if left_out else "add-one", options[0]


def _plain_levers() -> Mapping[str, str]:
    """Each lever's value in the profile `plain`, as labels write it."""
    from mnistbench.axes.execution import plain

    levers = plain().to_json()
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in levers.items()}


def _break_even(pair: Pair, kind: str, lever: str, sides: tuple[dict[str, Any], dict[str, Any]]) -> float:
    """Examples to train until the lever's start-up is earned back; inf when it never is."""
    if kind == "several" or not any(name in lever for name in START_UP_LEVERS):
        return math.nan
    having, lacking = sides if kind == "add-one" else sides[::-1]
    start_up = [float(side["setup_seconds"] + side["warmup_seconds"]) for side in (having, lacking)]
    seconds_gained = 1 / float(lacking["examples_per_second"]) - 1 / float(having["examples_per_second"])
    if seconds_gained <= 0:
        return math.inf
    return max(0.0, start_up[0] - start_up[1]) / seconds_gained
