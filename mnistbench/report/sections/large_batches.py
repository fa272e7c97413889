"""What a large batch costs, and which optimizer is robust to it (rules 10 and 18)."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mnistbench.report import charts
from mnistbench.report.exhibit import Exhibit, lowest, nothing, rows_of
from mnistbench.report.labels import labels
from mnistbench.report.palette import MUTED, PAPER
from mnistbench.report.repeats import measured, repeats
from mnistbench.report.samples import accuracy_of, settled
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
from mnistbench.words.wording import points


def _answer(study: Study) -> Answer:
    """What does a large batch cost, and which optimizer is robust to it?"""
    question = Question("large-batches", "What does a large batch cost?", "Cost of a large batch")
    exhibit = accuracy_by_batch(study.frame)
    if exhibit and not exhibit.frame.duplicated(["group", "series"]).any():
        exhibit = nothing("No series ran at more than one batch size.")
    if not exhibit:
        return Answer.without(question, exhibit)
    drops = worst_drops(study.frame)
    seen = charts.looks(exhibit.frame["optimizer_label"])
    lowest = _lowest(exhibit.frame)
    parts, panels = [], 0
    for heading, suffix, rows in groups(exhibit.frame):
        figures = []
        bare = rows[rows["execution_label"].isin(bare_profiles(rows))]
        for title, own in charts.panels_of(bare, apart(bare, ["architecture_label", "device", "execution_label"])):
            panels += 1
            if own["batch_size"].nunique() > 1 and panels <= charts.MOST_PANELS:
                stem = charts.stem("batch-cost", title) + suffix
                figures.append(batch_cost(own, stem, title, seen, lowest))
        columns = [
            *shared(SETTING),
            Column("lr_scaling", "learning-rate rule"),
            *shared("test_accuracy"),
            *of_kind("percent", "low high"),
            *shared("interval"),
            Column("drop", "points against best batch", "points"),
            Column("best_batch", "best batch", "count"),
            *shared("diverged unranked"),
        ]
        shown = table(rows, columns, name=f"accuracy-by-batch{suffix}", caption="Test accuracy by batch size")
        said = left_to_the_table(rows) if figures else []
        parts.append(Part(heading, sentences=said, charts=figures, table=shown, disclosed=bool(figures)))
    if drops:
        columns = [
            *shared(SETTING),
            Column("drop", "change in points", "points"),
            *shared("test_accuracy"),
            Column("best_accuracy", "at its best batch", "percent"),
            *of_kind("count", "best_batch"),
            Column("lr_scaling", "learning-rate rule"),
            Column("n", "seeds", "count"),
            *shared("diverged"),
        ]
        caption = "Largest losses of accuracy against the best batch of the same series"
        shown = table(drops.frame, columns, name="worst-drops", caption=caption)
        parts.append(Part("Worst drops", table=shown, disclosed=False))
    lead = (
        "Test accuracy after the last epoch, in points against the best batch size of the same network and optimizer."
    )
    notice = (
        f"{charts.MOST_PANELS} of {panels} panels are drawn; the table holds all."
        if panels > charts.MOST_PANELS
        else ""
    )
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes, notice=notice)


def _lowest(rows: pd.DataFrame) -> float:
    """Bottom of the axis in points; where a seed diverged the line may leave the plot, lest it flatten all others."""
    whole = rows.loc[rows["diverged"] == 0, "drop"].dropna()
    drops = whole if len(whole) else rows["drop"].dropna()
    return 100 * float(drops.min()) if len(drops) else -1.0


def accuracy_by_batch(frame: pd.DataFrame) -> Exhibit:
    """Test accuracy by batch size, and how far (a share) it is below the series' best batch that may be ranked."""
    frame = settled(frame)
    rows = measured(frame, ["finished", "diverged"])
    if rows["test_accuracy"].notna().sum() == 0:
        return nothing("No evaluation was recorded, so there is no accuracy to show.")
    series = labels(frame, "any_batch", without=("batch",))
    about = ["group", *SETTING.split(), "lr_scaling"]
    entries = [
        {
            **{name: runs.first(name) for name in about},
            "series": series[runs.first("any_batch")],
            **accuracy_of(runs),
        }
        for runs in repeats(rows)
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
    words = {
        "none": "kept for all batch sizes",
        "linear": "scaled with the batch size",
        "sqrt": "scaled with the square root of the batch size",
    }
    rules = "; ".join(words.get(rule, rule) for rule in sorted(set(table["lr_scaling"])))
    return Exhibit(table, notes=(f"Learning rate: {rules}.",))


def worst_drops(frame: pd.DataFrame, *, limit: int = 20) -> Exhibit:
    """The largest losses of accuracy against the best batch of the same series."""
    exhibit = accuracy_by_batch(frame)
    if not exhibit:
        return exhibit
    table = exhibit.frame[(exhibit.frame["drop"] < 0) & (exhibit.frame["unranked"] == "")].nsmallest(limit, "drop")
    if table.empty:
        return nothing("Every series has one batch size only, or loses nothing at any.")
    return Exhibit(table.reset_index(drop=True), notes=exhibit.notes)


def _sentences(frame: pd.DataFrame, _: pd.DataFrame) -> Iterator[str]:
    drops = worst_drops(frame, limit=1)
    for row in drops.frame.to_dict("records"):
        yield (
            f"The largest loss to a batch size: {row['series']} at batch {row['batch_size']} is "
            f"{-100 * row['drop']:.1f} points below batch {row['best_batch']} (medians of n = {row['n']})."
        )


def batch_cost(rows: pd.DataFrame, name: str, title: str, seen: dict[str, charts.Look], bottom: float) -> charts.Chart:
    """Accuracy lost against the series' best batch, in points, one line an optimizer.

    Args:
        rows: `accuracy_by_batch` of one network, device and execution.
        seen: looks of the optimizers, the same in every chart of the exhibit.
        bottom: of the axis in points, the same in every chart.
    """
    known = rows.dropna(subset=["drop"])
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 3.4)
        charts.batch_axis(axes, rows["batch_size"])
        for optimizer, rivals in known.groupby("optimizer_label", sort=False):
            look, own = seen[str(optimizer)], rivals.sort_values(["batch_size", "drop"])
            axes.plot(own["batch_size"], 100 * own["drop"], color=look.colour, marker=look.marker, markeredgewidth=0.75,
                      markeredgecolor=PAPER.light, linestyle=(0, look.dashes) if look.dashes else "-")  # fmt: skip
        axes.axhline(0, color=MUTED.light, linewidth=0.9, zorder=0)
        axes.set_ylim(min(1.08 * bottom, -0.1), max(-0.06 * bottom, 0.02))
        for row in rows_of(rows[rows["diverged"] > 0]):
            charts.cross(axes, row.batch_size, axes.get_ylim()[0])
        axes.set(ylabel="points against its best batch")
        here = list(dict.fromkeys(rows["optimizer_label"]))
        handles, labels = [charts.handle(seen[optimizer]) for optimizer in here], list(here)
        if (rows["diverged"] > 0).any():
            handles.append(charts.cross_handle())
            labels.append("a seed diverged")
        charts.legend(figure, handles, labels)
    alt = f"{title}: accuracy by batch size, less each optimizer's best batch."
    if len(known):
        worst = lowest(known, "drop")
        alt += (
            f" Worst: {worst.optimizer_label} at batch {worst.batch_size}, {points(worst.drop)} points"
            f" from batch {worst.best_batch}."
        )
    return charts.Chart(name, title, alt, figure)


SECTION = Section(_answer, _sentences)
