"""Charts of time: who is first at the target, what time buys, throughput, devices, levers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mnistbench.report import palette
from mnistbench.report.charts import (
    MOST_BANDS,
    WIDTH,
    Chart,
    batch_axis,
    canvas,
    handle,
    legend,
    log_axis,
    looks,
    ranges,
    row_labels,
    style,
    two_lines,
)
from mnistbench.report.page_rows import highest, lowest, rows_of
from mnistbench.report.palette import BAD, FAINT, INK, MUTED, PAPER, series_colour
from mnistbench.words.wording import listed, percent, plural, rate, ratio_range, short_rate, times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

MOST_NAMED = 8
"""Settings of the front that are named in the legend."""
MOST_GREY = 150
"""Curves behind the front that are drawn; more say nothing to the eye and cost megabytes."""
MOST_BARS = 15
MOST_ROWS = 24


def speedup_map(rows: pd.DataFrame, name: str, clock: str) -> Chart:
    """Ratios of a device over the baseline: series down, batch across; blue faster, orange slower, hatched open."""
    import seaborn as sns

    baseline, device = rows["baseline"].iloc[0], rows["device"].iloc[0]
    table = rows.pivot_table(
        index="series", columns="batch_size", values="ratio", aggfunc="first", dropna=False, sort=False
    )
    table = table.reindex(sorted(table.columns), axis=1).iloc[:MOST_ROWS]
    steps = table.map(_diverging_step).to_numpy(dtype=float)
    by_place = {(row.series, row.batch_size): row for row in rows_of(rows)}
    with style():
        figure, axes = canvas(WIDTH, 0.8 + 0.5 * len(table))
        sns.heatmap(
            steps, ax=axes, cbar=False, cmap=[colour.light for colour in palette.DIVERGING], vmin=-0.5,
            vmax=len(palette.DIVERGING) - 0.5, linewidths=2, linecolor=PAPER.light,
        )  # fmt: skip
        for down, series in enumerate(table.index):
            for across, batch in enumerate(table.columns):
                if row := by_place.get((series, batch)):
                    _speedup_cell(axes, across, down, row, steps[down, across])
        axes.set_xticks(np.arange(len(table.columns)) + 0.5, [f"{batch:,}" for batch in table.columns], rotation=0)
        axes.set_yticks(
            np.arange(len(table)) + 0.5,
            [two_lines(series) for series in table.index],
            rotation=0,
            fontsize=9,
            color=INK.light,
        )
        axes.set(xlabel="batch size", ylabel="")
        axes.tick_params(length=0)
        axes.grid(visible=False)
    known = rows.dropna(subset=["ratio"])
    most, least = highest(known, "ratio"), lowest(known, "ratio")
    undecided = int((rows["verdict"] == "open").sum())
    alt = (
        f"{device} over {baseline}, {'training seconds' if clock == 'steady' else 'from the start of the process'}:"
        f" from {times(least.ratio)} ({least.series}, batch {least.batch_size}) to {times(most.ratio)}"
        f" ({most.series}, batch {most.batch_size}); {undecided} of {len(rows)} open (hatched)."
        + (
            f" {MOST_ROWS} of {rows['series'].nunique()} rows are drawn."
            if len(table) < rows["series"].nunique()
            else ""
        )
    )
    title = f"{device} against {baseline}, {'steady' if clock == 'steady' else 'from cold'}"
    return Chart(name, title, alt, figure)


def throughput(rows: pd.DataFrame, name: str, *, evaluation: bool = False) -> Chart | None:
    """Examples per second over the batch size, both log: colour and marker by network, line style by device."""
    import seaborn as sns

    value = "eval_examples_per_second" if evaluation else "examples_per_second"
    known = rows[rows[value].notna() & (rows[value] > 0)]
    if known.empty:
        return None
    keys = ["architecture_label", "device"]
    series = list(dict.fromkeys(known[keys].itertuples(index=False, name=None)))
    colours = {name: place for place, name in enumerate(dict.fromkeys(key[0] for key in series))}
    dashes = {name: palette.DASHES[place] for place, name in enumerate(dict.fromkeys(key[1] for key in series))}
    with style():
        figure, axes = canvas(WIDTH, 3.5)
        batch_axis(axes, rows["batch_size"])
        log_axis(axes, "y", known[value].min() / 1.1, known[value].max() * 1.1, short_rate)
        handles, labels = [], []
        for architecture, device in series:
            own = known[(known["architecture_label"] == architecture) & (known["device"] == device)]
            place = colours[architecture]
            marker = palette.MARKERS[place % len(palette.MARKERS)]
            sns.lineplot(
                data=own, x="batch_size", y=value, estimator="median", errorbar=None, ax=axes, legend=False,
                color=series_colour(place), marker=marker, dashes=False, markeredgecolor=PAPER.light,
                linestyle=(0, dashes[device]) if dashes[device] else "-",
            )  # fmt: skip
            whole = own.groupby("batch_size")[value].agg(["min", "max"]).reset_index()
            ranges(axes, whole, ("batch_size", "min", "max"), series_colour(place), band=len(series) <= MOST_BANDS)
            handles.append(_series_handle(place, dashes[device]))
            labels.append(" · ".join([architecture] * (len(colours) > 1) + [device] * (len(dashes) > 1)) or "measured")
        handles.append(_ideal_line(axes, known, value))
        labels.append("twice the batch, twice the rate")
        failed = rows[rows["status"] == "out_of_memory"]
        floor = axes.get_ylim()[0]
        for row in rows_of(failed.drop_duplicates([*keys, "batch_size"])):
            axes.plot(
                [row.batch_size], [floor * 1.08], marker="x", color=BAD.light, markersize=8, markeredgewidth=2,
                linestyle="none", clip_on=False,
            )  # fmt: skip
        if len(failed):
            handles.append(handle(looks(["x"])["x"], marker="x", color=BAD.light, markeredgecolor=BAD.light,
                                  markeredgewidth=2, linestyle="none"))  # fmt: skip
            labels.append("out of memory")
        axes.set(ylabel="examples per second (log)")
        legend(figure, handles, labels)
    best, worst = highest(known, value), lowest(known, value)
    what = "Evaluation" if evaluation else "Training"
    alt = (
        f"{what} throughput of {listed(labels[: len(series)])}: highest {rate(getattr(best, value))} examples/s"
        f" ({best.architecture_label} on {best.device} at batch {best.batch_size}), lowest"
        f" {rate(getattr(worst, value))} ({worst.architecture_label} on {worst.device} at batch {worst.batch_size})."
        + (f" {plural(len(failed), 'setting')} ran out of memory." if len(failed) else "")
    )
    return Chart(name, f"{what}: examples per second", alt, figure)


def levers(rows: pd.DataFrame, name: str, title: str) -> Chart:
    """What each lever does to throughput, one dot a series, the bar their median; peak share beside it."""
    import seaborn as sns

    known = rows.dropna(subset=["ratio"])
    order = list(known.groupby("lever")["ratio"].median().sort_values(ascending=False).index)[:MOST_ROWS]
    known = known[known["lever"].isin(order)]
    places = {lever: place for place, lever in enumerate(order)}
    seen = looks(known["architecture_label"])
    with style():
        figure, axes = canvas(WIDTH, 0.8 + 0.4 * len(order))
        middle = known.groupby("lever")["ratio"].median()
        for lever in order:
            axes.barh(places[lever], middle[lever] - 1, left=1, height=0.5, color=palette.SEQUENTIAL[2].light)
        for label, look in seen.items():
            own = known[known["architecture_label"] == label]
            sns.scatterplot(
                x=own["ratio"], y=own["lever"].map(places), ax=axes, color=look.colour, marker=look.marker, s=34,
                edgecolor=PAPER.light, linewidth=0.5, legend=False, zorder=3,
            )  # fmt: skip
            for row in rows_of(own.dropna(subset=["low", "high"])):
                axes.hlines(places[row.lever], row.low, row.high, color=look.colour, linewidth=1)
        ends = pd.concat([known["ratio"], known["low"].dropna(), known["high"].dropna(), pd.Series([1.0])]).astype(
            float
        )
        ends = ends[ends > 0]
        log_axis(axes, "x", ends.min(), ends.max(), lambda value: f"{value:g}×", one=True)
        texts = []
        for lever in order:
            share = known.loc[known["lever"] == lever, "peak_share"].median()
            extra = f", {percent(share, 0)} of peak" if pd.notna(share) else ""
            texts.append(f"{two_lines(lever)}\n{times(middle[lever])}{extra}")
        axes.axvline(1, color=MUTED.light, linewidth=1)
        row_labels(axes, texts)
        axes.set(xlabel="throughput over the bare profile (log)")
        legend(figure, [handle(look, linestyle="none") for look in seen.values()], list(seen))
    top, last = order[0], order[-1]
    alt = f"{title}: throughput over the bare profile {times(middle[top])} with {top}"
    alt += f", down to {times(middle[last])} with {last}." if last != top else "."
    return Chart(name, title, alt, figure)


def _diverging_step(value: float) -> float:
    if not pd.notna(value) or value <= 0:
        return math.nan
    log = math.log2(value)
    if abs(log) < 0.14:  # within a tenth of 1x
        return palette.NEUTRAL
    limits = (0.14, 1, 2.33) if log < 0 else (0.14, 1, 2.33, 4.33)
    passed = sum(abs(log) >= limit for limit in limits)
    return palette.NEUTRAL + (passed if log > 0 else -passed)


def _speedup_cell(axes: Axes, across: int, down: int, row: Any, step: float) -> None:
    from matplotlib.patches import Rectangle

    value, verdict = row.ratio, row.verdict
    if not pd.notna(value):
        axes.text(across + 0.5, down + 0.5, "–", ha="center", va="center", color=MUTED.light)
        return
    ink = palette.ink_on(palette.DIVERGING[int(step)])
    if verdict == "open":
        axes.add_patch(
            Rectangle((across, down), 1, 1, fill=False, hatch="///", edgecolor=MUTED.light, linewidth=0, alpha=0.55)
        )
    low, high = row.low, row.high
    has_interval = pd.notna(low) and pd.notna(high)
    axes.text(across + 0.5, down + (0.4 if has_interval else 0.5), times(value), ha="center", va="center", color=ink,
              fontsize=10.5, fontweight="bold")  # fmt: skip
    if has_interval:
        axes.text(across + 0.5, down + 0.74, ratio_range(low, high).removesuffix("×"), ha="center", va="center",
                  color=ink, fontsize=8.5)  # fmt: skip


def _series_handle(place: int, dashes: tuple[float, ...]) -> Line2D:
    look = looks([str(number) for number in range(place + 1)])[str(place)]
    line = handle(look)
    line.set_linestyle((0, dashes) if dashes else "-")
    return line


def _ideal_line(axes: Axes, known: pd.DataFrame, value: str) -> Line2D:
    """Twice the batch, twice the examples per second: from the slowest series' smallest batch."""
    start = known.sort_values(["batch_size", value]).iloc[0]
    low, high = axes.get_ylim()
    sizes = np.array([start.batch_size, start.batch_size * high / start[value]])
    left, right = axes.get_xlim()
    (line,) = axes.plot(
        sizes, start[value] * sizes / sizes[0], color=FAINT.light, linewidth=1.2, linestyle=(0, (1, 2)), zorder=0
    )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    return line
