"""Charts of noise: every run against its seeds, and the best setting against all others."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from mnistbench.report import palette
from mnistbench.report.charts import (
    WIDTH,
    Chart,
    Look,
    canvas,
    handle,
    legend,
    log_axis,
    row_labels,
    style,
    two_lines,
)  # fmt: skip
from mnistbench.report.estimator import SAME
from mnistbench.report.page_rows import highest, rows_of
from mnistbench.report.palette import BAD, FAINT, MUTED, PAPER, series_colour
from mnistbench.report.svg import legible
from mnistbench.words.wording import listed, percent, plural, points

MOST_PAIRS = 14


def pair_differences(rows: pd.DataFrame, name: str, title: str) -> Chart:
    """How far the first lies before others: ratios with intervals, hollow when open.

    The grey band is what `same` has to lie inside of.

    Args:
        rows: `against_first` of pairs: label (of the other), ratio, low, high, verdict, reason, sorted.
    """
    shown = rows.head(MOST_PAIRS)
    colours = {"ahead": series_colour(0), "behind": series_colour(1), "same": series_colour(2)}
    with style():
        figure, axes = canvas(WIDTH, 0.85 + 0.36 * len(shown))
        axes.axvspan(math.exp(-SAME), math.exp(SAME), color=palette.RULE.light, alpha=0.6, linewidth=0)
        axes.axvline(1, color=MUTED.light, linewidth=1)
        for place, row in enumerate(rows_of(shown)):
            colour = colours.get(row.verdict, MUTED.light)
            if pd.notna(row.low) and pd.notna(row.high):
                axes.hlines(place, row.low, row.high, color=colour, linewidth=2)
            axes.plot([row.ratio], [place], marker="o", color=colour if row.verdict in colours else PAPER.light,
                      markeredgecolor=colour, markeredgewidth=1.5, markersize=7)  # fmt: skip
            axes.annotate(
                two_lines(row.verdict or row.reason or "", 24), (1, place), xytext=(6, 0), va="center", fontsize=9,
                xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED.light,
            )  # fmt: skip
        left, right = _limits(shown)
        log_axis(axes, "x", left, right, lambda value: f"{value:g}×", most=5, one=True)
        row_labels(axes, [two_lines(label) for label in shown["label"]])
        axes.set(xlabel="times as fast as this setting (log)")
    verdicts = rows["verdict"].replace("", "without verdict").value_counts()
    alt = (
        f"{title}: {listed([f'{verdict} of {number}' for verdict, number in verdicts.items()], 6)}"
        f" {'other' if len(rows) == 1 else 'others'}."
        + (f" The nearest {len(shown)} are drawn." if len(shown) < len(rows) else "")
        + " The grey band is what the same settings lie within, ±10 %."
    )
    return Chart(name, title, alt, figure)


def seed_dots(runs: pd.DataFrame, name: str) -> Chart:
    """Every run's throughput against the median of its settings, in per cent; flagged runs crossed.

    Args:
        runs: columns label, device, deviation (a share), noisy.
    """
    import seaborn as sns

    devices = list(dict.fromkeys(runs["device"]))
    rng = np.random.default_rng(0)
    with style():
        figure, axes = canvas(WIDTH, 0.9 + 0.8 * len(devices))
        for place, device in enumerate(devices):
            own = runs[runs["device"] == device]
            heights = place + rng.uniform(-0.3, 0.3, len(own))
            for noisy, marker, colour in ((False, "o", series_colour(0)), (True, "X", BAD.light)):
                chosen = (own["noisy"].astype(bool) == noisy).to_numpy()
                sns.scatterplot(x=100 * own["deviation"].to_numpy()[chosen], y=heights[chosen], ax=axes, marker=marker,
                                color=colour, s=20 if noisy else 14, alpha=0.8, linewidth=0, legend=False)  # fmt: skip
        axes.axvline(0, color=FAINT.light, linewidth=1, zorder=0)
        axes.set_yticks(range(len(devices)), [legible(device) for device in devices])
        axes.set_ylim(len(devices) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="run against the median of its seeds, % of examples/s", ylabel="")
        if runs["noisy"].astype(bool).any():
            look = Look(series_colour(0), "o", ())
            noisy_dot = handle(look, linestyle="none", marker="X", color=BAD.light)
            legend(figure, [handle(look, linestyle="none"), noisy_dot], ["quiet or unknown", "flagged as noisy"])
    far = highest(runs.assign(distance=runs["deviation"].abs()), "distance")
    alt = (
        f"{plural(len(runs), 'run')} against the median of the same settings: half lie within"
        f" ±{percent(runs['deviation'].abs().median(), 1)}, the farthest is {far.label} at {points(far.deviation)} %;"
        f" {int(runs['noisy'].astype(bool).sum())} are flagged as noisy."
    )
    return Chart(name, "Every run against its seeds' median", alt, figure)


def _limits(pairs: pd.DataFrame) -> tuple[float, float]:
    """Of the axis: all estimates, and intervals as far as three times beyond them; longer ones leave the plot."""
    ratios = pairs["ratio"].astype(float)
    least, most = min(float(ratios.min()), 0.97), max(float(ratios.max()), 1.03)
    low, high = pairs["low"].astype(float).min(), pairs["high"].astype(float).max()
    left = least if pd.isna(low) else max(float(low), least / 3)
    right = most if pd.isna(high) else min(float(high), most * 3)
    return min(left, least), max(right, most)
