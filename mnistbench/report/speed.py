"""Throughput by batch size, and what another device buys, steady and from cold (rules 7, 14, 20)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.blocks import NO_BLOCKS, cycle_table
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.labels import labels
from mnistbench.report.repeats import counted, repeats
from mnistbench.report.samples import Metric, blocks_of
from mnistbench.report.statistics import Floats
from mnistbench.report.verdicts import Pair, compare
from mnistbench.words.wording import interval_text, plural, times

CLOCKS: dict[str, Metric] = {"steady": "examples_per_second", "cold": "cold_seconds"}
CLOCK_WORDS = {"steady": "blocks of training", "cold": "from process start to the last evaluation"}


def throughput_by_batch(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """Examples per second by batch size: one row per settings; out-of-memory cells are rows without a number.

    Columns: group, settings, label, series (all but the batch size), architecture_label, optimizer_label, device,
    execution_label, batch_size, n, examples_per_second (mean of the blocks, else median of the seeds), low, high,
    interval (text: "95 % of 16 blocks", "range of 3"), values (list: one per seed), eval_examples_per_second (median),
    peak_share (median), status (`ok`, `out_of_memory`), flags.
    """
    frame = counted(frame)
    rows = frame[frame["status"].isin(["finished", "out_of_memory"]) & (frame["group"] != "") & (frame["repeat"] == 0)]
    if rows.empty:
        return nothing("No cell finished, so there is no throughput to show.")
    names, series = labels(frame), labels(frame, "any_batch", without=("batch",))
    timed = {group: cycle_table(blocks_of(blocks, frame, group)) for group in rows["group"].unique()}
    table = []
    for runs in repeats(rows, [*_SETTINGS, "status", "examples_per_second", *_MEDIANS, "flags"]):
        done = runs.columns["status"] == "finished"
        values = runs.floats("examples_per_second")[done]
        shown = statistics.summarize(values[~np.isnan(values)])
        if runs.settings in timed[runs.group].settings:
            shown = timed[runs.group].speed(runs.settings)
        table.append(
            {
                "group": runs.group,
                "settings": runs.settings,
                "label": names[runs.settings],
                "series": series[runs.first["any_batch"]],
                **{name: runs.first[name] for name in _SETTINGS if name != "any_batch"},
                "n": shown.n,
                "examples_per_second": shown.value,
                "low": shown.low,
                "high": shown.high,
                "interval": shown.kind,
                "values": values.tolist(),
                **{name: _median(runs.floats(name)[done]) for name in _MEDIANS},
                "status": "ok" if shown.n else "out_of_memory",
                "flags": runs.flags(),
            }
        )
    order = ["group", "series", "batch_size"]
    return Exhibit(pd.DataFrame(table).sort_values(order, kind="stable").reset_index(drop=True))


_SETTINGS = ["any_batch", "architecture_label", "optimizer_label", "device", "execution_label", "batch_size"]
_MEDIANS = ["eval_examples_per_second", "peak_share"]


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


def device_speedups(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """How much faster each device trains than the baseline (the CPU where there is one): same cell, other device.

    Columns: group, clock (`steady`: blocks of the same cycles; `cold`: process start to last evaluation, values without
    a verdict), baseline, device,
    architecture_label, optimizer_label, schedule_label, execution_label, batch_size, series (all but device and batch
    size), settings_baseline, settings_device, n, ratio (> 1: the device is faster than the baseline; NaN when it may
    not be shown), low, high, verdict (`faster`, `slower`, `same`, `open`, ""), reason (why there is no ratio or no
    verdict), text (both in words).
    """
    frame = counted(frame)
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
        for group, pair in (
            (group, pair) for group, own in compare(frame, metric, blocks, chosen).items() for pair in own
        ):
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
    found = pd.DataFrame(table).sort_values(order, ascending=[True, False, True, True, True], ignore_index=True)
    untimed = {settings for pair in chosen for settings in pair} - set(blocks["settings"])
    return Exhibit(found, notes=_short_notes(rows[rows["settings"].isin(untimed)]))


def _short_notes(rows: pd.DataFrame) -> tuple[str, ...]:
    """A fast device makes a cell short first: its own rate then favours the slow one."""
    short = int(rows["short"].sum())
    if not short:
        return ()
    return (
        f"{plural(short, 'cell')} of this comparison trained for under 1 s or 50 steps, and no blocks of them were"
        " timed. Do not publish the comparison so: time blocks, or run it with more epochs, until none is short.",
    )


def ratio_columns(pair: Pair) -> dict[str, Any]:
    """n, ratio, low, high, verdict, reason and text of a pair; no number where the equivalence gate did not pass."""
    hidden = pair.a.hidden or pair.b.hidden
    shown = (math.nan, math.nan, math.nan) if hidden else (pair.ratio, pair.low, pair.high)
    return {
        "n": pair.n,
        "ratio": shown[0],
        "low": shown[1],
        "high": shown[2],
        "verdict": pair.verdict,
        "reason": hidden or pair.reason,
        "text": hidden or pair.text,
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


def crossovers(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """From which batch size on the device is faster: one row per series, device and clock.

    Columns: group, clock, baseline, device, series, architecture_label, optimizer_label, crossover_batch (smallest
    batch from which every larger one is `faster`, from cold by value; NA when there is none), largest_ratio, at_batch,
    sentence.
    """
    speedups = device_speedups(frame, blocks)
    if not speedups:
        return nothing(speedups.reason)
    keys = ["group", "clock", "baseline", "device", "series", "architecture_label", "optimizer_label"]
    series: dict[tuple[str, ...], list[dict[Any, Any]]] = {}
    for row in speedups.frame.to_dict("records"):
        series.setdefault(tuple(row[key] for key in keys), []).append(row)
    table = []
    for key, rows in series.items():
        named = dict(zip(keys, key, strict=True))
        largest = _largest(rows) or {"ratio": math.nan, "batch_size": None}
        batch = _crossover(rows)
        table.append(
            {
                **named,
                "crossover_batch": batch,
                "largest_ratio": largest["ratio"],
                "at_batch": largest["batch_size"],
                "sentence": _sentence(named, rows, batch),
            }
        )
    result = pd.DataFrame(table)
    result[["crossover_batch", "at_batch"]] = result[["crossover_batch", "at_batch"]].astype("Int64")
    return Exhibit(result)


def _largest(rows: list[dict[Any, Any]]) -> dict[Any, Any] | None:
    shown = [row for row in rows if not math.isnan(row["ratio"])]
    return max(shown, key=lambda row: row["ratio"], default=None)


def _crossover(rows: list[dict[Any, Any]]) -> int | None:
    """The smallest batch from which on every one compared is proven faster; from cold, is faster by value."""
    found = None
    for row in sorted(rows, key=lambda row: -row["batch_size"]):
        if math.isnan(row["ratio"]):
            continue
        if not (row["verdict"] == "faster" or (row["clock"] == "cold" and row["ratio"] > 1)):
            break
        found = int(row["batch_size"])
    return found


def _sentence(named: dict[str, str], rows: list[dict[Any, Any]], batch: int | None) -> str:
    device, baseline, series = named["device"], named["baseline"], named["series"]
    best = _largest(rows)
    if best is None:
        return f"{series}: {device} against {baseline} is not shown ({rows[0]['reason']})."
    ends = interval_text(best["low"], best["high"])
    ratio = (
        f"{times(best['ratio'])} {ends + ' ' if ends else ''}at batch {best['batch_size']}"
        f" ({CLOCK_WORDS[named['clock']]}, n = {best['n']})"
    )
    cold = named["clock"] == "cold"
    if batch is None:
        judged = any(row["verdict"] for row in rows)
        why = "" if judged else f" ({best['reason']})"
        proven = "not faster" if cold else "not proven faster"
        return f"{series}: {device} is {proven} than {baseline} at the largest batch size{why}; {ratio}."
    smallest = batch == min(row["batch_size"] for row in rows if not math.isnan(row["ratio"]))
    where = "at every batch size measured" if smallest else f"from batch {batch} on"
    without = [str(row["batch_size"]) for row in rows if math.isnan(row["ratio"])]
    but = f" but {', '.join(without)}, which has no ratio" if without else ""
    return f"{series}: {device} is faster than {baseline} {where}{but}{', by value' if cold else ''}, {ratio}."
