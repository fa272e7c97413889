"""What error a second of training buys."""

from __future__ import annotations

import math

import pandas as pd

from mnistbench.report import charts
from mnistbench.report.exhibit import Exhibit, lowest, nothing
from mnistbench.report.frame import targets_in
from mnistbench.report.labels import labels
from mnistbench.report.palette import BAD, FAINT, INK, PAPER
from mnistbench.report.repeats import curve_points
from mnistbench.report.samples import may_be_ranked, settled
from mnistbench.report.sections.section import Answer, Part, Question, Section, Study, groups
from mnistbench.report.tables import SETTING, Column, of_kind, shared, table
from mnistbench.words.wording import accuracy_text, listed, percent, plural, seconds_text

MOST_NAMED = 8
"""Settings of the front that are named in the legend."""
LONGEST_AT_END = 28
"""Characters of a name that leave room for the curves; longer ones go into a legend."""
MOST_GREY = 150
"""Curves behind the front that are drawn; more say nothing to the eye and cost megabytes."""


def _answer(study: Study) -> Answer:
    """What does time buy?"""
    question = Question("time", "What does time buy?", "Error over time")
    exhibit = time_curves(study.frame, study.epochs)
    if not exhibit:
        return Answer.without(question, exhibit)
    parts = []
    for heading, suffix, rows in groups(exhibit.frame):
        front = rows[rows["pareto"].astype(bool)].sort_values("seconds")
        shown = table(
            front,
            [
                *shared(SETTING),
                *of_kind("count", "epoch"),
                Column("seconds", "training time", "seconds"),
                Column("error", "test error", "percent"),
                Column("error_low", "lowest seed", "percent"),
                Column("error_high", "highest seed", "percent"),
                Column("n", "seeds", "count"),
            ],
            name=f"pareto-table{suffix}",
            caption="The Pareto front: nothing is both faster and better",
        )
        drawable = rows[(rows["seconds"] > 0) & (rows["error"] > 0)]
        figures = [time_buys(rows, f"error-over-time{suffix}")] if len(drawable) else []
        parts.append(Part(heading, charts=figures, table=shown, disclosed=bool(figures)))
    lead = (
        "Each line is one setting, its median over seeds; the thin steps are the Pareto front, where nothing else was"
        " both faster and better. Bands are the range of the seeds."
    )
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes)


def time_curves(frame: pd.DataFrame, epochs: pd.DataFrame) -> Exhibit:
    """Test error over training seconds: one row per settings and epoch, medians over seeds with their range.

    On the Pareto front nothing in the group is both faster and better, and it may be ranked.
    """
    frame = settled(frame)
    rows = curve_points(frame, epochs)
    rows = rows[rows["test_accuracy"].notna()]
    if rows.empty:
        return nothing("No evaluation was recorded, so there is no curve to draw.")
    rows = rows.assign(error=1 - rows["test_accuracy"])
    keys = ["group", "settings", *SETTING.split(), "epoch"]
    table = rows.groupby(keys, sort=False, as_index=False).agg(
        n=("error", "size"),
        seconds=("seconds", "median"),
        error=("error", "median"),
        error_low=("error", "min"),
        error_high=("error", "max"),
    )
    table["target_errors"] = [[1 - target for target in targets_in(frame)]] * len(table)
    table.insert(2, "label", table["settings"].map(labels(frame)))
    ordered = table[may_be_ranked(table, frame)].sort_values(["group", "seconds", "error"])
    before = ordered.groupby("group")["error"].cummin().groupby(ordered["group"]).shift(fill_value=math.inf)
    table["pareto"] = (ordered["error"] < before).reindex(table.index, fill_value=False)
    return Exhibit(table)


def time_buys(curves: pd.DataFrame, name: str) -> charts.Chart:
    """Test error over training seconds, both log; the Pareto front in front, all else in grey."""
    rows = curves[(curves["seconds"] > 0) & (curves["error"] > 0)].copy()
    front = rows[rows["pareto"].astype(bool)].sort_values("seconds")
    named = charts.evenly(list(dict.fromkeys(front["label"])), MOST_NAMED)
    grey = rows[~rows["label"].isin(named)]
    shown = list(dict.fromkeys(grey["settings"]))
    kept = shown[:: -(-len(shown) // MOST_GREY)] if shown else []
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 3.6)
        for _, own in grey[grey["settings"].isin(kept)].sort_values("seconds").groupby("settings", sort=False):
            axes.plot(own["seconds"], own["error"], color=FAINT.light, linewidth=0.7, alpha=0.65)
        handles, ends, banded = [], [], len(named) <= charts.MOST_BANDS
        for label, look in charts.looks(named).items():
            own = rows[rows["label"] == label].sort_values("seconds")
            if own["n"].max() > 1:
                limits = own.assign(error_low=own["error_low"].clip(lower=1e-5))
                charts.ranges(axes, limits, ("seconds", "error_low", "error_high"), look.colour, band=banded)
            axes.plot(own["seconds"], own["error"], color=look.colour, dashes=look.dashes or (1, 0))
            on_front = own[own["pareto"].astype(bool)]
            axes.plot(
                on_front["seconds"], on_front["error"], color=look.colour, marker=look.marker, linestyle="none",
                markersize=7, markeredgecolor=PAPER.light, markeredgewidth=0.7, zorder=4,
            )  # fmt: skip
            handles.append(charts.handle(look))
            ends.append(charts.LineEnd(label, float(own["error"].iloc[-1]), colour=look.colour))
        axes.step(front["seconds"], front["error"], where="post", color=INK.light, linewidth=0.9, zorder=1)
        charts.log_axis(axes, "x", rows["seconds"].min(), rows["seconds"].max(), lambda value: f"{value:g}")
        single = grey[grey.groupby("settings")["settings"].transform("size") == 1]
        axes.plot(single["seconds"], single["error"], color=FAINT.light, marker=".", linestyle="none")
        targets = rows["target_errors"].iloc[0]
        heights = pd.concat([rows["error"], pd.Series(targets, dtype=float)]).astype(float)
        heights = heights[heights > 0]
        charts.log_axis(axes, "y", heights.min(), heights.max(), lambda value: f"{100 * value:g} %")
        goals = [target for target in targets if target > 0]
        for target in goals:
            axes.axhline(target, color=BAD.light, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel="training seconds (log)", ylabel="test error (log)")
        if banded or max(map(len, named), default=0) > LONGEST_AT_END:
            charts.legend(figure, handles, named)
            ends = []
        ends += [charts.LineEnd(f"target {accuracy_text(1 - target)}", target, colour=BAD.light) for target in goals]
        charts.name_ends(axes, ends, gap=0.055)
    thinned = f" {len(kept)} of {len(shown)} other settings are drawn." if len(kept) < len(shown) else ""
    best = lowest(rows, "error")
    alt = (
        f"Test error over training time of {plural(rows['settings'].nunique(), 'setting')}. On the Pareto front:"
        f" {listed(list(dict.fromkeys(front['label'])))}. Lowest error {percent(best.error, 2)} after"
        f" {seconds_text(best.seconds)} by {best.label}.{thinned}"
    )
    return charts.Chart(name, "Error over training time", alt, figure)


SECTION = Section(_answer)
