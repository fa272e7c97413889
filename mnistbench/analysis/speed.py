"""Throughput by batch size, and what another device buys, steady and from cold (rules 7, 14, 20)."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from mnistbench.analysis import statistics
from mnistbench.analysis.exhibit import Exhibit, nothing
from mnistbench.analysis.labels import labels
from mnistbench.analysis.verdicts import Metric, Pair, compare_chosen
from mnistbench.analysis.wording import interval_text, times

CLOCKS: dict[str, Metric] = {"steady": "examples_per_second", "cold": "cold_seconds"}
CLOCK_WORDS = {"steady": "training clock", "cold": "from process start to the last evaluation"}


def throughput_by_batch(frame: pd.DataFrame) -> Exhibit:
    """Examples per second by batch size: one row per settings; out-of-memory cells are rows without a number.

    Columns: group, settings, label, series (all but the batch size), architecture_label, optimizer_label, device,
    execution_label, batch_size, n, examples_per_second (median), low, high, interval (text: "range of 3"), values
    (list), eval_examples_per_second (median), peak_share (median), status (`ok`, `out_of_memory`), flags.
    """
    rows = frame[frame["status"].isin(["finished", "out_of_memory"]) & (frame["group"] != "") & (frame["repeat"] == 0)]
    if rows.empty:
        return nothing("No cell finished, so there is no throughput to show.")
    names, series = labels(frame), labels(frame, "any_batch", without=("batch",))
    table = []
    for (group, settings), part in rows.groupby(["group", "settings"], sort=False):
        first = part.iloc[0]
        done = part[(part["status"] == "finished") & part["examples_per_second"].notna()]
        values = done["examples_per_second"].tolist()
        shown = statistics.summarize(values)
        table.append(
            {
                "group": group,
                "settings": settings,
                "label": names[str(settings)],
                "series": series[first["any_batch"]],
                **{name: first[name] for name in ("architecture_label", "optimizer_label", "device")},
                "execution_label": first["execution_label"],
                "batch_size": first["batch_size"],
                "n": shown.n,
                "examples_per_second": shown.value,
                "low": shown.low,
                "high": shown.high,
                "interval": shown.kind,
                "values": values,
                "eval_examples_per_second": done["eval_examples_per_second"].median(),
                "peak_share": done["peak_share"].median(),
                "status": "ok" if values else "out_of_memory",
                "flags": "; ".join(sorted({flag for text in part["flags"] for flag in str(text).split("; ") if flag})),
            }
        )
    order = ["group", "series", "batch_size"]
    return Exhibit(pd.DataFrame(table).sort_values(order, kind="stable").reset_index(drop=True))


def device_speedups(frame: pd.DataFrame) -> Exhibit:
    """How much faster each device trains than the baseline (the CPU where there is one): same cell, other device.

    Columns: group, clock (`steady`: training seconds; `cold`: process start to last evaluation), baseline, device,
    architecture_label, optimizer_label, schedule_label, execution_label, batch_size, series (all but device and batch
    size), settings_baseline, settings_device, n, ratio (> 1: the device is faster than the baseline; NaN when it may
    not be shown), low, high, floor, verdict (`faster`, `slower`, `same`, `unresolved`, ""), reason (why there is no
    ratio or no verdict).
    """
    rows = frame[(frame["group"] != "") & (frame["repeat"] == 0)]
    if rows[rows["status"] == "finished"]["device"].nunique() < 2:
        return nothing("Cells finished on one device only, so there is no speed-up between devices to show.")
    chosen = _device_pairs(rows)
    if not chosen:
        return nothing("No settings finished on two devices.")
    series = labels(frame, "any_batch_device", without=("batch", "device"))
    about = {row["settings"]: row for row in frame.drop_duplicates("settings").to_dict("records")}
    table = []
    for clock, metric in CLOCKS.items():
        for group, pair in compare_chosen(frame, metric, chosen):
            settings = about[pair.a.settings]
            table.append(
                {
                    "group": group,
                    "clock": clock,
                    "baseline": pair.b.device,
                    "device": pair.a.device,
                    **{name: settings[name] for name in ("architecture_label", "optimizer_label", "schedule_label")},
                    "execution_label": settings["execution_label"],
                    "batch_size": int(settings["batch_size"]),
                    "series": series[settings["any_batch_device"]],
                    "settings_baseline": pair.b.settings,
                    "settings_device": pair.a.settings,
                    **ratio_columns(pair),
                }
            )
    if not table:
        return nothing("No settings ran on two devices of the same machine and build.")
    order = ["group", "clock", "series", "device", "batch_size"]
    return Exhibit(pd.DataFrame(table).sort_values(order, ascending=[True, False, True, True, True], ignore_index=True))


def ratio_columns(pair: Pair) -> dict[str, Any]:
    """n, ratio, low, high, floor, verdict and reason of a pair; no number where the equivalence gate did not pass."""
    hidden = pair.a.hidden or pair.b.hidden
    shown = (math.nan, math.nan, math.nan) if hidden else (pair.ratio, pair.low, pair.high)
    return {
        "n": pair.n,
        "ratio": shown[0],
        "low": shown[1],
        "high": shown[2],
        "floor": pair.floor,
        "verdict": pair.verdict,
        "reason": hidden or pair.reason,
    }


def _device_pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(settings on a device, the same on the baseline), baseline last."""
    kinds = rows.drop_duplicates("settings")
    pairs = []
    for _, same in kinds.groupby("any_device", sort=False):
        by_device = dict(zip(same["device"], same["settings"], strict=True))
        if len(by_device) < 2:
            continue
        baseline = "cpu" if "cpu" in by_device else min(by_device)
        pairs += [(settings, by_device[baseline]) for device, settings in by_device.items() if device != baseline]
    return pairs


def crossovers(frame: pd.DataFrame) -> Exhibit:
    """From which batch size on the device is faster: one row per series, device and clock.

    Columns: group, clock, baseline, device, series, architecture_label, optimizer_label, crossover_batch (smallest
    batch from which every larger one is `faster`; NA when there is none), largest_ratio, at_batch, sentence.
    """
    speedups = device_speedups(frame)
    if not speedups:
        return nothing(speedups.reason)
    table = []
    keys = ["group", "clock", "baseline", "device", "series", "architecture_label", "optimizer_label"]
    for key, rows in speedups.frame.groupby(keys, sort=False):
        named = dict(zip(keys, map(str, key), strict=True))
        shown = rows[rows["ratio"].notna()]
        best: dict[str, Any] = {"largest_ratio": math.nan, "at_batch": None}
        if not shown.empty:
            largest = _largest(shown)
            best = {"largest_ratio": largest["ratio"], "at_batch": largest["batch_size"]}
        batch = _crossover(rows)
        table.append({**named, "crossover_batch": batch, **best, "sentence": _sentence(named, rows, batch)})
    result = pd.DataFrame(table)
    result[["crossover_batch", "at_batch"]] = result[["crossover_batch", "at_batch"]].astype("Int64")
    return Exhibit(result)


def _largest(rows: pd.DataFrame) -> dict[str, Any]:
    return {str(name): value for name, value in rows.nlargest(1, "ratio").to_dict("records")[0].items()}


def _crossover(rows: pd.DataFrame) -> int | None:
    found = None
    for batch in sorted(set(rows["batch_size"].tolist()), reverse=True):
        if set(rows.loc[rows["batch_size"] == batch, "verdict"]) != {"faster"}:
            break
        found = batch
    return found


def _sentence(named: dict[str, str], rows: pd.DataFrame, batch: int | None) -> str:
    device, baseline, series = named["device"], named["baseline"], named["series"]
    shown = rows[rows["ratio"].notna()]
    if shown.empty:
        return f"{series}: {device} against {baseline} is not shown ({rows['reason'].iloc[0]})."
    best = _largest(shown)
    proof = interval_text(best["low"], best["high"])
    clock = CLOCK_WORDS[named["clock"]]
    ratio = (
        f"{times(best['ratio'])} at batch {best['batch_size']} ({clock}, n = {best['n']}"
        f"{', interval ' + proof + '×' if proof else ''})"
    )
    if batch is None:
        judged = rows[rows["verdict"] != ""]
        why = f" ({shown['reason'].iloc[0]})" if judged.empty else ""
        return f"{series}: {device} is not proven faster than {baseline} at the largest batch size{why}; {ratio}."
    smallest = batch == rows["batch_size"].min()
    where = "at every batch size measured" if smallest else f"from batch {batch} on"
    return f"{series}: {device} is faster than {baseline} {where}, {ratio}."
