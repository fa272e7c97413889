"""Charts of the way to the target: who is first, and what error a second of training buys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mnistbench.report.charts import (
    MOST_BANDS,
    WIDTH,
    Chart,
    LineEnd,
    canvas,
    handle,
    legend,
    log_axis,
    looks,
    name_ends,
    ranges,
    row_labels,
    style,
    two_lines,
)
from mnistbench.report.page_rows import lowest, rows_of
from mnistbench.report.palette import BAD, FAINT, INK, PAPER, series_colour
from mnistbench.words.wording import listed, percent, plural, seconds_text, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 8
"""Settings of the front that are named in the legend."""
MOST_GREY = 150
"""Curves behind the front that are drawn; more say nothing to the eye and cost megabytes."""
MOST_BARS = 15
MOST_ROWS = 24


def first_at_target(board: pd.DataFrame, name: str) -> Chart | None:
    """The best settings by median time to target: every seed a dot, the median a bar, the interval a line."""
    import seaborn as sns

    top = board[np.isfinite(board["seconds_to_target"].astype(float))].sort_values("order").head(MOST_BARS)
    if top.empty:
        return None
    dots = pd.DataFrame(
        [(row.settings, value) for row in rows_of(top) for value in row.seconds_values if math.isfinite(value)],
        columns=["settings", "seconds"],
    )
    with style():
        figure, axes = canvas(WIDTH, 0.75 + 0.33 * len(top))
        places = {settings: place for place, settings in enumerate(top["settings"])}
        for row in rows_of(top):
            place = places[row.settings]
            if pd.notna(row.seconds_low) and pd.notna(row.seconds_high) and math.isfinite(row.seconds_high):
                axes.hlines(place, row.seconds_low, row.seconds_high, color=FAINT.light, linewidth=5)
            axes.vlines(row.seconds_to_target, place - 0.28, place + 0.28, color=INK.light, linewidth=2)
        sns.scatterplot(
            x=dots["seconds"], y=dots["settings"].map(places), ax=axes, color=series_colour(0), s=28, legend=False,
            edgecolor=PAPER.light, linewidth=0.5, zorder=3, marker="o",
        )  # fmt: skip
        limits = pd.concat([dots["seconds"], top["seconds_to_target"], top["seconds_low"].dropna()]).astype(float)
        log_axis(axes, "x", limits.min(), limits.max(), lambda value: f"{value:g}", most=5)
        row_labels(axes, [two_lines(label) for label in top["label"]])
        axes.set(xlabel="training seconds to the target (log)")
    first, last = top.iloc[0], top.iloc[-1]
    alt = (
        f"Training time to the target of {plural(len(top), 'setting')}"
        f"{f', the first {len(top)} of {len(board)}' if len(top) < len(board) else ''}: from"
        f" {seconds_text(first.seconds_to_target)}"
        f" ({first.label}) to {seconds_text(last.seconds_to_target)} ({last.label})."
        " Dots are seeds, the bar their median, the grey line the interval."
    )
    return Chart(name, "Time to the target", alt, figure)


def time_buys(curves: pd.DataFrame, name: str) -> Chart:
    """Test error over training seconds, both log; the Pareto front in front, all else in grey."""
    import seaborn as sns

    rows = curves[(curves["seconds"] > 0) & (curves["error"] > 0)].copy()
    front = rows[rows["pareto"].astype(bool)].sort_values("seconds")
    named = _spread(list(dict.fromkeys(front["label"])), MOST_NAMED)
    grey = rows[~rows["label"].isin(named)]
    shown = list(dict.fromkeys(grey["settings"]))
    kept = shown[:: -(-len(shown) // MOST_GREY)] if shown else []
    with style():
        figure, axes = canvas(WIDTH, 3.6)
        if kept:
            sns.lineplot(
                data=grey[grey["settings"].isin(kept)], x="seconds", y="error", units="settings", estimator=None,
                ax=axes, color=FAINT.light, linewidth=0.7, legend=False, alpha=0.65,
            )  # fmt: skip
        handles, ends, banded = [], [], len(named) <= MOST_BANDS
        for label, look in looks(named).items():
            own = rows[rows["label"] == label].sort_values("seconds")
            if own["n"].max() > 1:
                limits = own.assign(error_low=own["error_low"].clip(lower=1e-5))
                ranges(axes, limits, ("seconds", "error_low", "error_high"), look.colour, band=banded)
            axes.plot(own["seconds"], own["error"], color=look.colour, dashes=look.dashes or (1, 0))
            on_front = own[own["pareto"].astype(bool)]
            axes.plot(
                on_front["seconds"], on_front["error"], color=look.colour, marker=look.marker, linestyle="none",
                markersize=7, markeredgecolor=PAPER.light, markeredgewidth=0.7, zorder=4,
            )  # fmt: skip
            handles.append(handle(look))
            ends.append(LineEnd(label, float(own["error"].iloc[-1]), colour=look.colour))
        axes.step(front["seconds"], front["error"], where="post", color=INK.light, linewidth=0.9, zorder=1)
        log_axis(axes, "x", rows["seconds"].min(), rows["seconds"].max(), lambda value: f"{value:g}")
        single = grey[grey.groupby("settings")["settings"].transform("size") == 1]
        axes.plot(single["seconds"], single["error"], color=FAINT.light, marker=".", linestyle="none")
        targets = list(rows["target_errors"].iloc[0])
        heights = pd.concat([rows["error"], pd.Series(targets, dtype=float)]).astype(float)
        heights = heights[heights > 0]
        log_axis(axes, "y", heights.min(), heights.max(), lambda value: f"{100 * value:g} %")
        _target_lines(axes, targets)
        axes.set(xlabel="training seconds (log)", ylabel="test error (log)")
        if banded:
            legend(figure, handles, named)
        else:
            name_ends(axes, ends, gap=0.055)
    thinned = f" {len(kept)} of {len(shown)} other settings are drawn." if len(kept) < len(shown) else ""
    best = lowest(rows, "error")
    alt = (
        f"Test error over training time of {plural(rows['settings'].nunique(), 'setting')}. On the Pareto front:"
        f" {listed(list(dict.fromkeys(front['label'])))}. Lowest error {percent(best.error, 2)} after"
        f" {seconds_text(best.seconds)} by {best.label}.{thinned}"
    )
    return Chart(name, "Error over training time", alt, figure)


def _spread(labels: list[str], most: int) -> list[str]:
    """At most so many of them, the first and the last among them."""
    if len(labels) <= most:
        return labels
    return [labels[round(place * (len(labels) - 1) / (most - 1))] for place in range(most)]


def _target_lines(axes: Axes, targets: list[float]) -> None:
    for target in (target for target in targets if target > 0):
        axes.axhline(target, color=BAD.light, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"target {significant(100 * (1 - target), 4)} %", (1, target), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=9.5, color=BAD.light,
        )  # fmt: skip
