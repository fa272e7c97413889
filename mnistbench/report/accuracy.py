"""What a large batch costs, which optimizer is robust, how cells learned, which classes go wrong (rules 10, 18)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.frame import Record
from mnistbench.report.labels import labels
from mnistbench.report.ranking import curve_points
from mnistbench.report.repeats import Repeats, counted, repeats
from mnistbench.report.samples import RANK_TEST_SEEDS, settle_outcomes, unranked, unranked_settings
from mnistbench.report.verdicts import compare
from mnistbench.results.measures import parts
from mnistbench.words.wording import percent


def accuracy_by_batch(frame: pd.DataFrame) -> Exhibit:
    """Test accuracy by batch size, less the series' best batch.

    Columns: group, settings, label, series (all but the batch size), architecture_label, optimizer_label, device,
    execution_label, batch_size, lr_scaling (`none`, `linear`, `sqrt`), n, test_accuracy (median of the last epoch),
    low, high (range or interval), interval (text), values (list), drop (median less that of the best batch: ≤ 0 for
    those that are ranked, a share), best_batch, best_accuracy, diverged (number of seeds that diverged), unranked (why
    it is ranked nowhere and is no best batch, or "").
    """
    frame = settle_outcomes(counted(frame))
    rows = frame[frame["status"].isin(["finished", "diverged"]) & (frame["group"] != "") & (frame["repeat"] == 0)]
    if rows["test_accuracy"].notna().sum() == 0:
        return nothing("No evaluation was recorded, so there is no accuracy to show.")
    names, series = labels(frame), labels(frame, "any_batch", without=("batch",))
    about = ["architecture_label", "optimizer_label", "device", "execution_label", "batch_size", "lr_scaling"]
    entries = [
        {
            "group": runs.group,
            "settings": runs.settings,
            "label": names[runs.settings],
            "series": series[runs.first["any_batch"]],
            **{name: runs.first[name] for name in about},
            **_shown(runs),
        }
        for runs in repeats(rows, ["any_batch", *about, *_SHOWN])
    ]
    table = pd.DataFrame(entries)
    table = table[table["n"] > 0].sort_values(["group", "series", "batch_size"], ignore_index=True)
    ranked = table["unranked"] == ""
    none = ~ranked.groupby([table["group"], table["series"]]).transform("any")
    rivals = table[ranked | none]
    best = rivals.loc[rivals.groupby(["group", "series"])["test_accuracy"].idxmax()]
    best = best.rename(columns={"batch_size": "best_batch", "test_accuracy": "best_accuracy"})
    table = table.merge(best[["group", "series", "best_batch", "best_accuracy"]], on=["group", "series"])
    table["drop"] = table["test_accuracy"] - table["best_accuracy"]
    return Exhibit(table, notes=_lr_notes(table))


def _shown(runs: Repeats) -> dict[str, Any]:
    """A diverged seed counts with the accuracy of its last evaluation."""
    values = runs.known("test_accuracy")
    shown = statistics.summarize(values, logarithmic=False)
    return {
        "n": shown.n,
        "test_accuracy": shown.value,
        "low": max(0.0, shown.low),
        "high": min(1.0, shown.high),
        "interval": shown.kind,
        "values": values,
        "diverged": int((runs.columns["status"] == "diverged").sum()),
        "unranked": unranked(runs),
    }


_SHOWN = ["status", "test_accuracy", "outdated", "equivalence"]


def _lr_notes(table: pd.DataFrame) -> tuple[str, ...]:
    rules = sorted(set(table["lr_scaling"]))
    words = {"none": "kept for all batch sizes", "linear": "scaled with the batch size", "sqrt": "scaled with its root"}
    return (f"Learning rate: {'; '.join(words.get(rule, rule) for rule in rules)}.",)


def worst_drops(frame: pd.DataFrame, *, limit: int = 20) -> Exhibit:
    """The largest losses of accuracy against the best batch of the same series.

    Columns: group, series, architecture_label, optimizer_label, device, execution_label, lr_scaling, batch_size,
    best_batch, test_accuracy, best_accuracy, drop (≤ 0, a share), n, diverged.
    """
    found = accuracy_by_batch(frame)
    if not found:
        return found
    table = found.frame[(found.frame["drop"] < 0) & (found.frame["unranked"] == "")].nsmallest(limit, "drop")
    if table.empty:
        return nothing("Every series has one batch size only, or loses nothing at any.")
    columns = [
        "group", "series", "architecture_label", "optimizer_label", "device", "execution_label", "lr_scaling",
        "batch_size", "best_batch", "test_accuracy", "best_accuracy", "drop", "n", "diverged",
    ]  # fmt: skip
    return Exhibit(table[columns].reset_index(drop=True), notes=found.notes)


def optimizer_ranking(frame: pd.DataFrame) -> Exhibit:
    """Optimizers by test accuracy within the same architecture, batch size and device.

    Columns: group, contest (what the optimizers share), architecture_label, batch_size, device, settings,
    optimizer_label, lr, schedule_label, tuning (`as given`, `tuned over k trials`), rank (1 + number proven better; NA
    below 7 seeds, or where some are tuned and others are not), unranked (why it is ranked nowhere, or ""; such ones
    come last), order, n, test_accuracy (median), low, high, interval, seconds_to_target (to the largest target; median;
    inf when most seeds did not reach it), reached, diverged.
    """
    frame = settle_outcomes(counted(frame))
    rows = frame[frame["status"].isin(["finished", "diverged"]) & (frame["group"] != "") & (frame["repeat"] == 0)]
    rivals = rows.groupby(["group", "any_optimizer"])["settings"].transform("nunique")
    rows = rows[rivals > 1]
    if rows.empty:
        return nothing("No two optimizers ran on the same architecture, batch size and device.")
    contests = labels(frame, "any_optimizer", without=("optimizer", "schedule"))
    beaten = _beaten(frame, rows)
    about = [
        "architecture_label", "batch_size", "device", "optimizer_label", "lr", "schedule_label", "tuning",
    ]  # fmt: skip
    entries = [
        {
            "group": runs.group,
            "contest": contests[runs.first["any_optimizer"]],
            **{name: runs.first[name] for name in about},
            "settings": runs.settings,
            "rank": beaten.get((runs.group, runs.settings), 0) + 1,
            **_shown(runs),
            "seconds_to_target": float(np.median(runs.floats("seconds_to_target", math.inf))),
            "reached": int((runs.floats("reached") == 1).sum()),
        }
        for runs in repeats(rows, ["any_optimizer", *about, *_SHOWN, "seconds_to_target", "reached"])
    ]
    table = pd.DataFrame(entries)
    table["_last"] = table["unranked"] != ""
    table = table.sort_values(
        ["group", "contest", "_last", "test_accuracy"], ascending=[True, True, True, False], ignore_index=True
    )
    keys = table.groupby(["group", "contest"])
    ranked = table[~table["_last"]].groupby(["group", "contest"])
    few = ranked["n"].transform("min") < RANK_TEST_SEEDS
    unlike = ranked["tuning"].transform("nunique") > 1
    table["rank"] = table["rank"].astype("Int64").mask((few | unlike).reindex(table.index, fill_value=True))
    table["order"] = keys.cumcount() + 1
    notes = []
    if table["rank"].isna().any():
        notes.append(f"A rank needs {RANK_TEST_SEEDS} seeds each, and all tuned alike; else ordered by median.")
    return Exhibit(table.drop(columns=["values", "_last"]), notes=tuple(notes))


def _beaten(frame: pd.DataFrame, rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    """How many rivals are proven more accurate, by (group, settings); Bonferroni over all contests."""
    counts: dict[tuple[str, str], int] = {}
    for group, part in rows.drop_duplicates(["group", "settings"]).groupby("group"):
        chosen: list[tuple[str, str]] = []
        for names in part.groupby("any_optimizer")["settings"].agg(list):
            chosen += itertools.combinations(names, 2)
        pairs = compare(frame[frame["group"] == group], "test_accuracy", NO_BLOCKS, chosen).get(str(group), [])
        for pair in pairs:
            loser = {"better": pair.b, "worse": pair.a}.get(pair.verdict)
            if loser is not None:
                key = (str(group), loser.settings)
                counts[key] = counts.get(key, 0) + 1
    return counts


def learning_curves(frame: pd.DataFrame, epochs: pd.DataFrame) -> Exhibit:
    """Loss and accuracy by epoch, medians over seeds.

    Columns: group, settings, label, architecture_label, optimizer_label, batch_size, device, epoch, n, and for each of
    train_loss, test_loss, train_accuracy, test_accuracy: the median, with `_low` and `_high` (range over seeds).
    """
    rows = curve_points(frame, epochs)
    if rows.empty:
        return nothing("No epoch was recorded, so there is no curve to draw.")
    keys = ["group", "settings", "architecture_label", "optimizer_label", "batch_size", "device", "epoch"]
    measures = ["train_loss", "test_loss", "train_accuracy", "test_accuracy"]
    columns = {"n": ("record_id", "size")} | {
        f"{name}{ending}": (name, how)
        for name in measures
        for ending, how in (("", "median"), ("_low", "min"), ("_high", "max"))
    }
    table = rows.groupby(keys, sort=False).agg(**columns).reset_index()
    table.insert(2, "label", table["settings"].map(labels(frame)))
    return Exhibit(table)


def confusion(records: Iterable[Record], frame: pd.DataFrame) -> Exhibit:
    """Confusion matrix of the best cell that may be ranked (highest test accuracy at the last epoch), in long form.

    Columns: true, predicted (class numbers), count, share (of the true class). `notes[0]` names the cell. Per-class
    errors are `per_class(exhibit.frame)`.
    """
    frame = settle_outcomes(counted(frame))
    nowhere = unranked_settings(frame)
    ranked = [key not in nowhere for key in zip(frame["group"], frame["settings"], strict=True)]
    frame = frame.loc[ranked]  # an empty list would choose no column, were it not for `loc`
    done = frame[(frame["status"] == "finished") & frame["test_accuracy"].notna()]
    ordered = done.sort_values(["test_accuracy", "train_seconds"], ascending=[False, True])
    order = {record_id: place for place, record_id in enumerate(ordered["record_id"])}
    best: tuple[int, Any] | None = None
    for record in records:
        plain = parts(record)
        place, matrix = order.get(plain["record_id"]), parts(plain.get("model")).get("confusion")
        if place is not None and matrix and (best is None or place < best[0]):
            best = (place, matrix)
    if best is None:
        return nothing("No finished cell that may be ranked holds a confusion matrix.")
    row = ordered.iloc[best[0]]
    counts = np.asarray(best[1], dtype=int)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        return nothing("The best cell's confusion matrix is not square.")
    true, predicted = np.indices(counts.shape)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    table = pd.DataFrame(
        {
            "true": true.ravel(),
            "predicted": predicted.ravel(),
            "count": counts.ravel(),
            "share": (counts / totals).ravel(),
        }
    )
    name = labels(frame)[str(row["settings"])]
    note = f"{name}, seed {row['seed']}: {percent(row['test_accuracy'], 2)} of the test data right."
    return Exhibit(table, notes=(note,))


def per_class(confusions: pd.DataFrame) -> pd.DataFrame:
    """Errors by class from the frame of `confusion`.

    Columns: true, examples, errors, error (share), most_confused_with (class number, NA without errors), times.
    """
    counts = confusions.pivot_table(index="true", columns="predicted", values="count", aggfunc="sum").to_numpy(
        dtype=int
    )
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    examples, errors = counts.sum(axis=1), wrong.sum(axis=1)
    worst = pd.Series(wrong.argmax(axis=1), dtype="Int64").mask(pd.Series(errors == 0))
    return pd.DataFrame(
        {
            "true": np.arange(len(counts)),
            "examples": examples,
            "errors": errors,
            "error": errors / np.maximum(examples, 1),
            "most_confused_with": worst,
            "times": wrong.max(axis=1),
        }
    )
