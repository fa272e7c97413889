"""Charts of accuracy: what a large batch costs, how cells learned, which classes go wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mnistbench.report import palette
from mnistbench.report.charts import (
    MOST_BANDS,
    WIDTH,
    Chart,
    LineEnd,
    Look,
    batch_axis,
    canvas,
    handle,
    legend,
    log_axis,
    name_ends,
    panel,
    ranges,
    style,
)  # fmt: skip
from mnistbench.report.page_rows import highest, lowest, rows_of
from mnistbench.report.palette import BAD, MUTED, PAPER, series_colour
from mnistbench.report.svg import legible
from mnistbench.words.wording import clipped, count, listed, percent, points, significant


def batch_cost(rows: pd.DataFrame, name: str, title: str, seen: dict[str, Look], bottom: float) -> Chart:
    """Accuracy lost against the series' best batch, in points, one line an optimizer.

    Args:
        rows: `accuracy_by_batch` of one network and device.
        seen: looks of the optimizers, the same in every chart of the exhibit.
        bottom: of the axis in points, the same in every chart.
    """
    import seaborn as sns

    known = rows.dropna(subset=["drop"])
    with style():
        figure, axes = canvas(WIDTH, 3.4)
        batch_axis(axes, rows["batch_size"])
        for optimizer, own in known.groupby("optimizer_label", sort=False):
            look = seen[str(optimizer)]
            sns.lineplot(
                x=own["batch_size"], y=100 * own["drop"], ax=axes, color=look.colour, marker=look.marker, legend=False,
                linestyle=(0, look.dashes) if look.dashes else "-", markeredgecolor=PAPER.light, estimator=None,
            )  # fmt: skip
        axes.axhline(0, color=MUTED.light, linewidth=0.9, zorder=0)
        axes.set_ylim(min(1.08 * bottom, -0.1), max(-0.06 * bottom, 0.02))
        for row in rows_of(rows[rows["diverged"] > 0]):
            axes.plot([row.batch_size], [axes.get_ylim()[0]], marker="x", color=BAD.light, markersize=8,
                      markeredgewidth=2, linestyle="none", clip_on=False, zorder=5)  # fmt: skip
        axes.set(ylabel="points below its best batch")
        here = list(dict.fromkeys(rows["optimizer_label"]))
        handles, labels = [handle(seen[optimizer]) for optimizer in here], list(here)
        if (rows["diverged"] > 0).any():
            handles.append(handle(next(iter(seen.values())), marker="x", color=BAD.light, markeredgecolor=BAD.light,
                                  markeredgewidth=2, linestyle="none"))  # fmt: skip
            labels.append("a seed diverged")
        legend(figure, handles, labels)
    alt = f"{title}: accuracy by batch size, less each optimizer's best batch."
    if len(known):
        worst = lowest(known, "drop")
        alt += (
            f" Worst: {worst.optimizer_label} at batch {worst.batch_size}, {points(worst.drop)} points"
            f" from batch {worst.best_batch}."
        )
    return Chart(name, title, alt, figure)


@dataclass(frozen=True)
class Frame:
    """The axes that all panels of the learning curves share.

    Attributes:
        metric: `loss` or `accuracy`.
        limits: of the y axis.
        epochs: the longest run.
    """

    metric: str
    limits: tuple[float, float]
    epochs: int


def learning_curve(rows: pd.DataFrame, name: str, title: str, frame: Frame) -> Chart:
    """Train (dashed) and test (solid) by epoch, one colour a batch size, its number at the line's end.

    Args:
        rows: `learning_curves` of one network, optimizer and device.
        frame: the axes, the same in all panels.
    """
    metric, epochs = frame.metric, frame.epochs
    batches = sorted(set(rows["batch_size"]))
    with style():
        figure, axes = panel()
        ends = []
        for place, batch in enumerate(batches):
            own = rows[rows["batch_size"] == batch].sort_values("epoch")
            colour = series_colour(place)
            marker = palette.MARKERS[place % len(palette.MARKERS)] if own["epoch"].nunique() <= 12 else None
            axes.plot(own["epoch"], own[f"train_{metric}"], color=colour, linestyle=(0, (3, 2)), linewidth=1.1)
            if own["n"].max() > 1:
                limits = ("epoch", f"test_{metric}_low", f"test_{metric}_high")
                ranges(axes, own, limits, colour, band=len(batches) <= MOST_BANDS)
            axes.plot(own["epoch"], own[f"test_{metric}"], color=colour, marker=marker, markersize=4.5,
                      markeredgecolor=PAPER.light, markeredgewidth=0.4)  # fmt: skip
            last = own.dropna(subset=[f"test_{metric}"]).tail(1)
            if len(last):
                ends.append((int(batch), float(last["epoch"].iloc[0]), float(last[f"test_{metric}"].iloc[0])))
        if metric == "loss":
            log_axis(axes, "y", *frame.limits, lambda value: f"{value:g}", most=5)
        else:
            axes.set_ylim(*frame.limits)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %" if value <= 1.0001 else "")
        axes.set_xlim(0.8 if epochs > 1 else 0.5, epochs + max(0.24 * epochs, 0.5))
        step = -(-epochs // 6)
        axes.set_xticks(range(step if step > 1 else 1, epochs + 1, step))
        name_ends(axes, [LineEnd(str(batch), value, epoch) for batch, epoch, value in ends])
        axes.set(xlabel="epoch")
    finals = [
        f"batch {batch} {percent(value, 2) if metric == 'accuracy' else significant(value)}" for batch, _, value in ends
    ]
    alt = (
        f"{title}: {metric} by epoch. Last test {metric}: {listed(finals, 6)}."
        if finals
        else f"{title}: no test {metric}."
    )
    return Chart(name, title, alt, figure)


def confusion_map(rows: pd.DataFrame, name: str, classes: dict[int, str]) -> Chart:
    """True classes down, predicted across; shade by share of the true class, the diagonal left plain."""
    import seaborn as sns

    counts = rows.pivot_table(index="true", columns="predicted", values="count", aggfunc="sum")
    shares = rows.pivot_table(index="true", columns="predicted", values="share", aggfunc="sum").to_numpy()
    numbers, wrong = counts.to_numpy(), shares.copy()
    np.fill_diagonal(wrong, 0.0)
    top = wrong.max() or 1.0
    last = len(palette.SEQUENTIAL) - 1
    steps = np.ceil(np.sqrt(wrong / top) * last)
    size = len(counts)
    with style():
        figure, axes = canvas(WIDTH, 0.9 + 0.4 * max(size, 4))
        sns.heatmap(
            steps, ax=axes, cbar=False, cmap=[colour.light for colour in palette.SEQUENTIAL], vmin=-0.5,
            vmax=last + 0.5, linewidths=1.5, linecolor=PAPER.light, mask=np.eye(size, dtype=bool),
        )  # fmt: skip
        for true in range(size):
            for predicted in range(size):
                number, step = int(numbers[true, predicted]), steps[true, predicted]
                if true == predicted:
                    axes.text(predicted + 0.5, true + 0.5, f"{number}", ha="center", va="center", color=MUTED.light,
                              fontsize=9)  # fmt: skip
                elif number:
                    ink = palette.ink_on(palette.SEQUENTIAL[int(step)])
                    axes.text(predicted + 0.5, true + 0.5, f"{number}", ha="center", va="center", color=ink,
                              fontsize=9.5, fontweight="bold" if step >= 4 else "normal")  # fmt: skip
        names = [legible(clipped(classes.get(int(label), str(label)), 12)) for label in counts.index]
        axes.set_xticks(np.arange(size) + 0.5, names, rotation=0 if max(map(len, names)) < 4 else 45)
        axes.set_yticks(np.arange(size) + 0.5, names, rotation=0)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="true")
    worst = rows[rows["true"] != rows["predicted"]].sort_values("count", ascending=False).iloc[0]
    alt = (
        f"Confusion of {count(rows['count'].sum())} test examples: most often {classes[int(worst['true'])]} taken for"
        f" {classes[int(worst['predicted'])]}, {count(worst['count'])} times."
        " The diagonal, correct answers, is left unshaded."
    )
    return Chart(name, "Confusion matrix", alt, figure)


def class_errors(rows: pd.DataFrame, name: str, classes: dict[int, str]) -> Chart:
    """Share of each true class that went wrong."""
    import seaborn as sns

    names = [legible(clipped(classes.get(int(label), str(label)), 14)) for label in rows["true"]]
    with style():
        figure, axes = canvas(WIDTH, 0.9 + 0.32 * max(len(rows), 4))
        sns.barplot(
            x=100 * rows["error"].to_numpy(), y=names, ax=axes, color=series_colour(0), saturation=1, width=0.62
        )
        for place, row in enumerate(rows_of(rows)):
            axes.annotate(f"{percent(row.error, 2)}  ({count(row.errors)})", (100 * row.error, place), xytext=(5, 0),
                          textcoords="offset points", va="center", fontsize=9.5)  # fmt: skip
        axes.set_xlim(0, max(100 * rows["error"].max() * 1.3, 0.1))
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="errors, % of the class", ylabel="")
    worst, best = highest(rows, "error"), lowest(rows, "error")
    alt = (
        f"Errors by class: most for {classes.get(int(worst.true), worst.true)} ({percent(worst.error, 2)}), fewest for"
        f" {classes.get(int(best.true), best.true)} ({percent(best.error, 2)})."
    )
    return Chart(name, "Errors by class", alt, figure)


def thin(rows: pd.DataFrame, most: int = 100) -> pd.DataFrame:
    """At most so many epochs of each curve, the first and the last among them."""
    epochs = sorted(rows["epoch"].unique())
    if len(epochs) <= most:
        return rows
    kept = {epochs[round(place * (len(epochs) - 1) / (most - 1))] for place in range(most)}
    return rows[rows["epoch"].isin(kept)]
