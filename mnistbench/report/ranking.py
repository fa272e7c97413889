"""Which is first at each target, and what time buys (rules 9, 11, 17, 18)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.blocks import NO_BLOCKS, CycleTable, cycle_table
from mnistbench.report.estimator import ENOUGH_CYCLES, ranks
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.frame import at_target, targets_in
from mnistbench.report.labels import labels
from mnistbench.report.repeats import Repeats, counted, repeats
from mnistbench.report.samples import (
    RANK_TEST_SEEDS,
    Metric,
    Sample,
    blocks_of,
    samples,
    settle_outcomes,
    steps_per_epoch,
    unranked,
    unranked_settings,
    with_gate_of_blocks,
)
from mnistbench.report.statistics import Interval
from mnistbench.report.verdicts import MOST_COMPARED, Pair, compare
from mnistbench.results.records import RESULTS
from mnistbench.words.wording import accuracy_text, seconds_text

Clock = Literal["train", "cold"]


def leaderboard(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS, *, clock: Clock = "train") -> Exhibit:
    """Settings of each group by median time to target, each target by itself; without any target, by test accuracy
    (then throughput). Settings that are ranked nowhere come last.

    A time to target is the steps to the first evaluation that passes it, at the seconds a step of the blocks; where no
    blocks were taken, that of the runs' own clock.

    Columns: group, rank (1 + number proven better; ties share it; NA where no verdict is possible), rank_high (the last
    rank it may have), rank_text (`1`, `2–4`), rank_reason, unranked (why it is ranked nowhere, or ""), order (1, 2, …
    by median), settings, label, architecture_label, optimizer_label, schedule_label, batch_size, device,
    execution_label, target_accuracy, seeds (that gave a result), diverged (how many of them), reached (k), reached_low,
    reached_high (Clopper–Pearson 95 %, shares), seconds_to_target (median; inf when most seeds did not reach it),
    seconds_low, seconds_high, interval ("one run", "range of 3", "95 % of 16 blocks", …), seconds_text (for show:
    `3.10 s`, `> 4.20 s`, `not reached (best 98.7 %)`), seconds_values (list: one per seed, inf where not reached: the
    dots), clock_seconds_to_target (median, by the runs' own clock), cold_seconds_to_target (median), epochs_to_target
    (median), test_accuracy (median), best_test_accuracy (best of any seed and epoch), examples_per_second (of the
    blocks, else the median of the runs), flags, equivalence.

    Args:
        clock: "train" for the training clock, "cold" for process start to target.
    """
    frame = settle_outcomes(with_gate_of_blocks(counted(frame), blocks))
    rows = frame[frame["status"].isin(RESULTS) & (frame["group"] != "") & (frame["repeat"] == 0)]
    if rows.empty:
        return nothing("No cell finished, so there is nothing to rank.")
    targets, names = targets_in(rows), labels(frame)
    if targets:
        metric: Metric = "seconds_to_target" if clock == "train" else "cold_seconds_to_target"
        table = pd.concat([_board(at_target(frame, target), blocks, metric, names) for target in targets])
    else:
        metric = "test_accuracy"
        table = _board(frame, blocks, metric, names)
    order = ["group", "target_accuracy", "order"]
    table = table.sort_values(order, kind="stable")
    notes = [] if targets else ["The grid names no target accuracy: ordered by test accuracy, then by throughput."]
    if table["rank"].isna().all():
        needed = f"cycles of blocks ({ENOUGH_CYCLES} at least)" if targets else f"{RANK_TEST_SEEDS} seeds"
        notes.append(f"Ordered by median; a rank needs {needed}.")
    elif targets:
        notes.append(
            "Times and ranks are for the seeds that ran: their steps to the target, at the speed of the blocks."
        )
    return Exhibit(table[_LEADERBOARD].reset_index(drop=True), notes=tuple(notes))


def _board(frame: pd.DataFrame, blocks: pd.DataFrame, metric: Metric, names: dict[str, str]) -> pd.DataFrame:
    """The leaderboard at the frame's one target, or of test accuracy."""
    rows = frame[frame["status"].isin(RESULTS) & (frame["group"] != "") & (frame["repeat"] == 0)]
    if metric != "test_accuracy":
        rows = rows[rows["reached"].notna()]
    ranked = _ranks(frame, blocks, metric)
    timed = {str(group): _timed(blocks_of(blocks, frame, str(group))) for group in rows["group"].unique()}
    unknown = {"rank": None, "rank_high": None, "rank_text": "", "rank_reason": "no run finished"}
    found = [
        {
            **_entry(runs, metric, *timed[runs.group]),
            "label": names[runs.settings],
            **ranked.get((runs.group, runs.settings), unknown),
        }
        for runs in repeats(rows, [*_SETTINGS, *_MEASURED])
    ]
    table = pd.DataFrame(found, columns=[name for name in _LEADERBOARD if name != "order"])
    table["_last"] = table["unranked"] != ""
    order = ["group", "_last", "seconds_to_target", "test_accuracy", "examples_per_second"]
    table = table.sort_values(order, ascending=[True, True, True, False, False], kind="stable", na_position="last")
    table["order"] = table.groupby("group").cumcount() + 1
    return table.astype({"rank": "Int64", "rank_high": "Int64"})


def _timed(blocks: pd.DataFrame) -> tuple[CycleTable, CycleTable]:
    return cycle_table(blocks, unit="examples"), cycle_table(blocks, unit="steps")


_LEADERBOARD = [
    "group", "rank", "rank_high", "rank_text", "rank_reason", "unranked", "order", "settings", "label",
    "architecture_label", "optimizer_label", "schedule_label", "batch_size", "device", "execution_label",
    "target_accuracy", "seeds", "diverged", "reached", "reached_low", "reached_high", "seconds_to_target",
    "seconds_low", "seconds_high", "interval", "seconds_text", "seconds_values", "clock_seconds_to_target",
    "cold_seconds_to_target", "epochs_to_target", "test_accuracy", "best_test_accuracy", "examples_per_second",
    "flags", "equivalence",
]  # fmt: skip


def _entry(runs: Repeats, metric: Metric, examples: CycleTable, steps: CycleTable) -> dict[str, Any]:
    first = runs.first
    targeted = not math.isnan(first["target_accuracy"])
    reached = int((runs.floats("reached") == 1).sum())
    low, high = statistics.reached_interval(reached, len(runs)) if targeted else (math.nan, math.nan)
    clock = metric if metric != "test_accuracy" else "seconds_to_target"
    values = runs.floats(clock, missing=math.inf).tolist() if targeted else []
    shown = statistics.summarize(values)
    own_clock = shown.value
    if targeted and clock == "seconds_to_target" and runs.settings in steps.settings:
        values, shown = _at_speed_of_blocks(runs, steps.speed(runs.settings))
    best = max(runs.known("best_test_accuracy"), default=math.nan)
    return {
        **{name: first[name] for name in _SETTINGS},
        "seeds": len(runs),
        "diverged": int((runs.columns["status"] == "diverged").sum()),
        "unranked": unranked(runs),
        "reached": reached if targeted else None,
        "reached_low": low,
        "reached_high": high,
        "seconds_to_target": shown.value,
        "seconds_low": shown.low,
        "seconds_high": shown.high,
        "interval": shown.kind if targeted else "",
        "seconds_text": _seconds_text(runs, shown.value, best, clock) if targeted else "no target",
        "seconds_values": values,
        "clock_seconds_to_target": own_clock if targeted else math.nan,
        # unreached seeds are beyond the last evaluation (rule 11)
        "cold_seconds_to_target": _median(runs, "cold_seconds_to_target", math.inf if targeted else math.nan),
        "epochs_to_target": _median(runs, "epochs_to_target", math.inf if targeted else math.nan),
        "test_accuracy": _median(runs, "test_accuracy"),
        "best_test_accuracy": best,
        "examples_per_second": examples.speed(runs.settings).value
        if runs.settings in examples.settings
        else _median(runs, "examples_per_second"),
        "flags": runs.flags(),
        "equivalence": "; ".join(sorted(runs.texts("equivalence", missing="not checked"))),
    }


def _at_speed_of_blocks(runs: Repeats, speed: Interval) -> tuple[list[float], Interval]:
    """The seeds' steps to the target at so many steps a second, and their median with the interval of the speed."""
    steps = steps_per_epoch(runs) * runs.floats("epochs_to_target", math.inf)
    values = (steps / speed.value).tolist()
    middle = float(np.median(values))
    low, high = (middle * speed.value / end if end > 0 else math.nan for end in (speed.high, speed.low))
    return values, Interval(middle, low, high, len(values), speed.kind)


_SETTINGS = [
    "group", "settings", "architecture_label", "optimizer_label", "schedule_label", "batch_size", "device",
    "execution_label", "target_accuracy",
]  # fmt: skip
_MEASURED = [
    "status", "reached", "seconds_to_target", "cold_seconds_to_target", "epochs_to_target", "epochs", "epochs_done",
    "steps", "test_accuracy", "best_test_accuracy", "examples_per_second", "train_seconds", "cold_seconds", "flags",
    "equivalence", "outdated",
]  # fmt: skip


def _median(runs: Repeats, column: str, missing: float = math.nan) -> float:
    values = runs.floats(column, missing)
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else math.nan


def _seconds_text(runs: Repeats, median: float, best: float, clock: str) -> str:
    if math.isfinite(median):
        return seconds_text(median)
    reached = runs.floats("reached") == 1
    if reached.any():
        spent = runs.floats("train_seconds" if clock == "seconds_to_target" else "cold_seconds")[~reached]
        known = spent[~np.isnan(spent)]
        return f"> {seconds_text(float(known.min()))}" if len(known) else "not reached by most seeds"
    return f"not reached (best {accuracy_text(best)})" if math.isfinite(best) else "not reached"


def _ranks(frame: pd.DataFrame, blocks: pd.DataFrame, metric: Metric) -> dict[tuple[str, str], dict[str, Any]]:
    """Rank, its range, and the reason where there is none, by (group, settings)."""
    pairs_by_group = compare(frame, metric, blocks)
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for group, group_samples in samples(frame, metric, blocks).items():
        pairs = pairs_by_group[group]
        judged = [pair for pair in pairs if pair.verdict]
        ranked = list(dict.fromkeys(side.settings for pair in judged for side in (pair.a, pair.b)))
        if not ranked:  # one that has no rival which may be ranked is first
            timed = blocks_of(blocks, frame, group).groupby("settings")["seconds"].count()
            able = [sample.settings for sample in group_samples if _may_be_ranked(sample, metric, timed)]
            ranked = able if len(able) == 1 else []
        place = {settings: number for number, settings in enumerate(ranked)}
        as_speeds = {"better": "faster", "worse": "slower"}
        verdicts = np.array([as_speeds.get(pair.verdict, pair.verdict) for pair in judged], dtype=str)
        numbers = np.array([(place[pair.a.settings], place[pair.b.settings]) for pair in judged], np.int64)
        found = ranks(verdicts, numbers.reshape(-1, 2), len(ranked))
        for sample in group_samples:
            low, high = found[place[sample.settings]] if sample.settings in place else (None, None)
            told[group, sample.settings] = {
                "rank": low,
                "rank_high": high,
                "rank_text": "" if low is None else str(low) if low == high else f"{low}–{high}",
                "rank_reason": _reason(sample.settings, pairs) if low is None else "",
            }
    return told


def _may_be_ranked(sample: Sample, metric: Metric, timed: pd.Series[int]) -> bool:
    if metric == "test_accuracy":
        return not sample.unranked and len(sample.values) >= RANK_TEST_SEEDS
    return not sample.obstacle and int(timed.get(sample.settings, 0)) >= ENOUGH_CYCLES and metric == "seconds_to_target"


def _reason(settings: str, pairs: Sequence[Pair]) -> str:
    """Why no pair of a setting has a verdict: a reason of its own, if it has one, else what most of its pairs say."""
    own = [pair for pair in pairs if settings in (pair.a.settings, pair.b.settings)]
    side = next((pair.a if pair.a.settings == settings else pair.b for pair in own), None)
    if side is not None and (side.unranked or side.obstacle):
        return side.unranked or side.obstacle
    reasons = [pair.reason for pair in own if not (pair.a.obstacle or pair.b.obstacle)] or [pair.reason for pair in own]
    alone = f"only the {MOST_COMPARED} best are compared" if len(pairs) else "nothing to compare it with"
    return max(reasons, key=reasons.count) if reasons else alone


def time_curves(frame: pd.DataFrame, epochs: pd.DataFrame) -> Exhibit:
    """Test error over training seconds: one row per settings and epoch, medians over seeds with their range.

    Columns: group, settings, label, architecture_label, optimizer_label, batch_size, device, epoch, n, seconds
    (median training clock), error (median of 1 − test accuracy), error_low, error_high (range over seeds), pareto
    (nothing in the group is both faster and better, and it may be ranked), target_errors (list).
    """
    frame = settle_outcomes(counted(frame))
    rows = curve_points(frame, epochs)
    rows = rows[rows["test_accuracy"].notna()]
    if rows.empty:
        return nothing("No evaluation was recorded, so there is no curve to draw.")
    rows = rows.assign(error=1 - rows["test_accuracy"])
    keys = ["group", "settings", "architecture_label", "optimizer_label", "batch_size", "device", "epoch"]
    table = rows.groupby(keys, sort=False, as_index=False).agg(
        n=("error", "size"),
        seconds=("seconds", "median"),
        error=("error", "median"),
        error_low=("error", "min"),
        error_high=("error", "max"),
    )
    table["target_errors"] = [[1 - target for target in targets_in(frame)]] * len(table)
    table.insert(2, "label", table["settings"].map(labels(frame)))
    nowhere = unranked_settings(frame)
    ranked = [key not in nowhere for key in zip(table["group"], table["settings"], strict=True)]
    ordered = table[ranked].sort_values(["group", "seconds", "error"])
    before = ordered.groupby("group")["error"].cummin().groupby(ordered["group"]).shift(fill_value=math.inf)
    table["pareto"] = (ordered["error"] < before).reindex(table.index, fill_value=False)
    return Exhibit(table)


def curve_points(frame: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Epochs of the runs that gave a result, twins apart, with the settings' columns."""
    frame = counted(frame)
    kept = frame[frame["status"].isin(RESULTS) & (frame["group"] != "") & (frame["repeat"] == 0)]
    columns = ["record_id", "group", "architecture_label", "optimizer_label", "batch_size", "device"]
    return epochs.merge(kept[columns], on="record_id")
