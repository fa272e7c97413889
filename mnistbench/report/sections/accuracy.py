"""Questions about accuracy: large batches, optimizers, how cells learned, which classes go wrong."""

from __future__ import annotations

import math

import pandas as pd

from mnistbench.report import accuracy, accuracy_charts, trials
from mnistbench.report.charts import Chart, looks
from mnistbench.report.exhibit import nothing
from mnistbench.report.sections.section import (
    MOST_PANELS,
    Part,
    Question,
    Section,
    Study,
    groups,
    panels_of,
    slug,
    unanswered,
)
from mnistbench.report.sections.speed import EXECUTION, SETTINGS
from mnistbench.report.tables import Column, Table, table
from mnistbench.words.wording import plural

PANEL = ["architecture_label", "optimizer_label", "device"]
"""What one panel of the learning curves holds."""


def large_batches(study: Study) -> Section:
    """What does a large batch cost, and which optimizer is robust to it?"""
    question = Question("large-batches", "What does a large batch cost?", "Cost of a large batch")
    exhibit = accuracy.accuracy_by_batch(study.frame)
    if exhibit and not exhibit.frame.duplicated(["group", "series"]).any():
        exhibit = nothing("No series ran at more than one batch size.")
    if not exhibit:
        return unanswered(question, exhibit)
    drops = accuracy.worst_drops(study.frame)
    seen = looks(exhibit.frame["optimizer_label"])
    lowest = _lowest(exhibit.frame)
    parts, panels = [], 0
    for heading, suffix, rows in groups(exhibit.frame):
        charts = []
        for title, own in panels_of(rows, ["architecture_label", "device"]):
            panels += 1
            if own["batch_size"].nunique() > 1 and panels <= MOST_PANELS:
                stem = slug("batch-cost", title) + suffix
                charts.append(accuracy_charts.batch_cost(own, stem, title, seen, lowest))
        columns = [
            *SETTINGS,
            EXECUTION,
            Column("lr_scaling", "learning-rate rule"),
            Column("test_accuracy", "test accuracy", "percent"),
            Column("low", "low", "percent"),
            Column("high", "high", "percent"),
            Column("interval", "interval"),
            Column("drop", "points below best batch", "points"),
            Column("best_batch", "best batch", "count"),
            Column("diverged", "diverged seeds", "count"),
            Column("unranked", "ranked nowhere", "long"),
        ]
        shown = table(rows, columns, name=f"accuracy-by-batch{suffix}", caption="Test accuracy by batch size")
        parts.append(Part(heading, charts=charts, table=shown, disclosed=bool(charts)))
    if drops:
        parts.append(Part("Worst drops", table=_drops(drops.frame), disclosed=False))
    lead = "Test accuracy after the last epoch, in points below the best batch size of the same network and optimizer."
    notice = f"{MOST_PANELS} of {panels} panels are drawn; the table holds all." if panels > MOST_PANELS else ""
    return Section(
        question, lead=lead, parts=parts, notes=list(dict.fromkeys([*exhibit.notes, *drops.notes])), notice=notice
    )


def optimizers(study: Study) -> Section:
    """Which optimizer is best?"""
    question = Question("optimizers", "Which optimizer is best?", "Optimizers")
    exhibit, tried = accuracy.optimizer_ranking(study.frame), trials.best_after_trials(study.runs)
    parts = []
    if exhibit:
        parts.append(Part(table=_ranking(exhibit.frame), disclosed=False))
    if tried:
        parts.append(Part("Best after few trials", sentences=tried.notes, table=_trials(tried.frame)))
    if not parts:
        return unanswered(question, exhibit)
    lead = "Test accuracy within the same network, batch size and device."
    return Section(question, lead=lead, parts=parts, notes=exhibit.notes)


def learning(study: Study) -> Section:
    """How did it learn?"""
    question = Question("learning", "How did it learn?", "Learning curves")
    exhibit = accuracy.learning_curves(study.frame, study.epochs)
    if not exhibit:
        return unanswered(question, exhibit)
    rows = exhibit.frame
    limits = {metric: _limits(rows, metric) for metric in ("accuracy", "loss")}
    epochs = int(rows["epoch"].max())
    parts, panels = [], 0
    for heading, suffix, own_group in groups(rows):
        charts: dict[str, list[Chart]] = {"accuracy": [], "loss": []}
        for title, own in panels_of(own_group, PANEL):
            panels += 1
            if panels > MOST_PANELS:
                continue
            for metric, both in limits.items():
                if both:
                    stem = slug("learning", metric, title) + suffix
                    axes = accuracy_charts.Frame(metric, both, epochs)
                    charts[metric].append(accuracy_charts.learning_curve(accuracy_charts.thin(own), stem, title, axes))
        columns = [
            *SETTINGS,
            Column("epoch", "epoch", "count"),
            Column("train_loss", "train loss", "number"),
            Column("test_loss", "test loss", "number"),
            Column("train_accuracy", "train accuracy", "percent"),
            Column("test_accuracy", "test accuracy", "percent"),
            Column("n", "seeds", "count"),
        ]
        shown = table(
            own_group, columns, name=f"curves{suffix}", caption="Loss and accuracy by epoch, medians", most=200
        )
        for metric, drawn in charts.items():
            if drawn:
                parts.append(
                    Part(" · ".join(filter(None, [heading, metric.capitalize()])), charts=drawn, layout="small")
                )
        parts.append(Part(table=shown))
    lead = (
        "Medians over seeds: test solid with the range of the seeds as a band, train dashed; the number at a line's end"
        " is its batch size. All panels share their axes."
    )
    notice = (
        f"{MOST_PANELS} of {plural(panels, 'combination')} of network, optimizer and device are drawn; epochs.csv holds"
        " every curve."
        if panels > MOST_PANELS
        else ""
    )
    return Section(question, lead=lead, parts=parts, notes=exhibit.notes, notice=notice)


def classes(study: Study) -> Section:
    """Which digits go wrong?"""
    digits = bool(len(study.frame)) and set(study.frame["dataset"]) <= {"mnist", "digits"}
    question = Question(
        "classes",
        "Which digits go wrong?" if digits else "Which classes go wrong?",
        "Errors by digit" if digits else "Errors by class",
    )
    exhibit = accuracy.confusion(study.records, study.frame)
    if not exhibit:
        return unanswered(question, exhibit)
    by_class = accuracy.per_class(exhibit.frame)
    names = {int(label): str(int(label)) for label in exhibit.frame["true"].unique()}
    charts = [
        accuracy_charts.confusion_map(exhibit.frame, "confusion", names),
        accuracy_charts.class_errors(by_class, "class-errors", names),
    ]
    shown = table(
        by_class,
        [
            Column("true", "class", "count"),
            Column("examples", "examples", "count"),
            Column("errors", "errors", "count"),
            Column("error", "error", "percent"),
            Column("most_confused_with", "most often taken for", "count"),
            Column("times", "times", "count"),
        ],
        name="classes-table",
        caption="Errors by class",
    )
    return Section(
        question, lead=" ".join(exhibit.notes[:1]), parts=[Part(charts=charts, table=shown)], notes=exhibit.notes[1:]
    )


def _drops(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        [
            *SETTINGS,
            EXECUTION,
            Column("drop", "points lost", "points"),
            Column("test_accuracy", "test accuracy", "percent"),
            Column("best_accuracy", "at its best batch", "percent"),
            Column("best_batch", "best batch", "count"),
            Column("lr_scaling", "learning-rate rule"),
            Column("n", "seeds", "count"),
            Column("diverged", "diverged", "count"),
        ],
        name="worst-drops",
        caption="Largest losses of accuracy against the best batch of the same series",
    )


def _ranking(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        [
            Column("architecture_label", "architecture", "name", filtered=True),
            Column("batch_size", "batch", "count", filtered=True),
            Column("device", "device", filtered=True),
            Column("rank", "rank", "count"),
            Column("optimizer_label", "optimizer", "name", filtered=True),
            Column("lr", "learning rate", "whole"),
            Column("schedule_label", "schedule", "name", filtered=True),
            Column("tuning", "tuning", filtered=True),
            Column("test_accuracy", "test accuracy", "percent"),
            Column("low", "low", "percent"),
            Column("high", "high", "percent"),
            Column("interval", "interval"),
            Column("n", "seeds", "count"),
            Column("diverged", "diverged", "count"),
            Column("unranked", "ranked nowhere", "long"),
        ],
        name="optimizers",
        caption="Optimizers by test accuracy, within the same network, batch and device",
    )


def _trials(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        [
            Column("architecture_label", "architecture", "name", filtered=True),
            Column("batch_size", "batch", "count", filtered=True),
            Column("trials", "trials", "count", filtered=True),
            Column("diverged", "diverged", "count"),
            Column("optimizer_label", "optimizer", "name", filtered=True),
            Column("schedule_label", "schedule", "name", filtered=True),
            Column("lr", "rate picked", "whole"),
            Column("validation_accuracy", "validation accuracy", "percent"),
        ],
        name="after-trials",
        caption="The best learning rate of each optimizer after so many trials, by validation accuracy",
    )


def _lowest(rows: pd.DataFrame) -> float:
    """Bottom of the axis in points; where a seed diverged the line may leave the plot, lest it flatten all others."""
    whole = rows.loc[rows["diverged"] == 0, "drop"].dropna()
    drops = whole if len(whole) else rows["drop"].dropna()
    return 100 * float(drops.min()) if len(drops) else -1.0


def _limits(rows: pd.DataFrame, metric: str) -> tuple[float, float] | None:
    """Axis limits that hold every curve: accuracy from a round number to 1, loss over all positive values."""
    values = pd.concat([rows[f"train_{metric}"], rows[f"test_{metric}"]]).dropna()
    values = values[values > 0]
    if values.empty:
        return None
    if metric == "accuracy":
        low = max(0.0, math.floor(20 * float(values.quantile(0.02))) / 20)
        return (low, 1.0 + 0.03 * (1.0 - low))
    return (float(values.min()), float(max(values.max(), 1.01 * values.min())))
