"""How the cells learned: loss and accuracy by epoch."""

from __future__ import annotations

import math

import pandas as pd

from mnistbench.report import charts, palette
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.palette import PAPER, series_colour
from mnistbench.report.repeats import curve_points
from mnistbench.report.sections.section import (
    Answer,
    Part,
    Question,
    Section,
    Study,
    apart,
    bare_profiles,
    groups,
    left_to_the_table,
)
from mnistbench.report.tables import SETTING, Column, of_kind, shared, table
from mnistbench.words.wording import listed, percent, plural, significant

PANEL = ["architecture_label", "optimizer_label", "device", "execution_label"]
"""What one panel of the learning curves holds."""


def _answer(study: Study) -> Answer:
    """How did it learn?"""
    question = Question("learning", "How did it learn?", "Learning curves")
    exhibit = learning_curves(study.frame, study.epochs)
    if not exhibit:
        return Answer.without(question, exhibit)
    rows = exhibit.frame
    limits = {metric: both for metric in ("accuracy", "loss") if (both := _limits(rows, metric))}
    epochs = int(rows["epoch"].max())
    parts, panels = [], 0
    for heading, suffix, own_group in groups(rows):
        bare = own_group[own_group["execution_label"].isin(bare_profiles(own_group))]
        own_panels = list(charts.panels_of(bare, apart(bare, PANEL)))
        drawn = own_panels[: max(charts.MOST_PANELS - panels, 0)]
        panels += len(own_panels)
        for metric, bounds in limits.items() if drawn else ():
            figures = []
            for title, own in drawn:
                stem = charts.stem("learning", metric, title) + suffix
                figures.append(learning_curve(thin(own), stem, title, metric=metric, bounds=bounds, epochs=epochs))
            name = " · ".join(filter(None, [heading, metric.capitalize()]))
            parts.append(Part(name, charts=figures, layout="small"))
        columns = [
            *shared(SETTING),
            *of_kind("count", "epoch"),
            *of_kind("number", "train_loss test_loss"),
            *of_kind("percent", "train_accuracy"),
            *shared("test_accuracy"),
            Column("n", "seeds", "count"),
        ]
        caption = "Loss and accuracy by epoch, medians"
        shown = table(own_group, columns, name=f"curves{suffix}", caption=caption, most=200)
        parts.append(Part(sentences=left_to_the_table(own_group), table=shown))
    lead = (
        "Medians over seeds: test solid with the range of the seeds as a band, train dashed; the number at a line's end"
        " is its batch size. All panels share their axes."
    )
    notice = (
        f"{charts.MOST_PANELS} of {plural(panels, 'combination')} of network, optimizer and device are drawn;"
        " epochs.csv holds every curve."
    )
    return Answer(
        question, lead=lead, parts=parts, notes=exhibit.notes, notice=notice if panels > charts.MOST_PANELS else ""
    )


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


def learning_curves(frame: pd.DataFrame, epochs: pd.DataFrame) -> Exhibit:
    """Loss and accuracy by epoch: medians over seeds, with `_low` and `_high` (their range)."""
    rows = curve_points(frame, epochs)
    if rows.empty:
        return nothing("No epoch was recorded, so there is no curve to draw.")
    if rows["epoch"].max() == 1:
        return nothing("Every cell was trained for one epoch, which makes no curve.")
    keys = ["group", "settings", *SETTING.split(), "epoch"]
    measures = ["train_loss", "test_loss", "train_accuracy", "test_accuracy"]
    columns = {"n": ("record_id", "size")} | {
        f"{name}{ending}": (name, how)
        for name in measures
        for ending, how in (("", "median"), ("_low", "min"), ("_high", "max"))
    }
    return Exhibit(rows.groupby(keys, sort=False).agg(**columns).reset_index())


def learning_curve(
    rows: pd.DataFrame, name: str, title: str, *, metric: str, bounds: tuple[float, float], epochs: int
) -> charts.Chart:
    """Train (dashed) and test (solid) by epoch, one colour a batch size, its number at the line's end.

    Args:
        rows: `learning_curves` of one panel.
        metric: `loss` or `accuracy`.
        bounds: of the y axis, the same in all panels.
        epochs: of the longest run.
    """
    from matplotlib.ticker import MaxNLocator

    batches = sorted(set(rows["batch_size"]))
    with charts.style():
        figure, axes = charts.panel()
        ends = []
        for place, batch in enumerate(batches):
            own = rows[rows["batch_size"] == batch].sort_values("epoch")
            colour = series_colour(place)
            marker = palette.MARKERS[place % len(palette.MARKERS)] if own["epoch"].nunique() <= 12 else None
            axes.plot(own["epoch"], own[f"train_{metric}"], color=colour, linestyle=(0, (3, 2)), linewidth=1.1)
            if own["n"].max() > 1:
                limits = ("epoch", f"test_{metric}_low", f"test_{metric}_high")
                charts.ranges(axes, own, limits, colour, band=len(batches) <= charts.MOST_BANDS)
            axes.plot(own["epoch"], own[f"test_{metric}"], color=colour, marker=marker, markersize=4.5,
                      markeredgecolor=PAPER.light, markeredgewidth=0.4)  # fmt: skip
            last = own.dropna(subset=[f"test_{metric}"]).tail(1)
            if len(last):
                ends.append((int(batch), float(last["epoch"].iloc[0]), float(last[f"test_{metric}"].iloc[0])))
        if metric == "loss":
            charts.log_axis(axes, "y", *bounds, lambda value: f"{value:g}", most=5)
        else:
            axes.set_ylim(*bounds)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %" if value <= 1.0001 else "")
        axes.set_xlim(0.8 if epochs > 1 else 0.5, epochs + max(0.24 * epochs, 0.5))
        axes.set_xticks([tick for tick in MaxNLocator(6, integer=True).tick_values(1, epochs) if 1 <= tick <= epochs])
        charts.name_ends(axes, [charts.LineEnd(str(batch), value, epoch) for batch, epoch, value in ends])
        axes.set(xlabel="epoch")
    finals = [
        f"batch {batch} {percent(value, 2) if metric == 'accuracy' else significant(value)}" for batch, _, value in ends
    ]
    alt = (
        f"{title}: {metric} by epoch. Last test {metric}: {listed(finals, 6)}."
        if finals
        else f"{title}: no test {metric}."
    )
    return charts.Chart(name, title, alt, figure)


def thin(rows: pd.DataFrame, most: int = 100) -> pd.DataFrame:
    """At most so many epochs of each curve, the first and the last among them."""
    return rows[rows["epoch"].isin(charts.evenly(sorted(rows["epoch"].unique()), most))]


SECTION = Section(_answer)
