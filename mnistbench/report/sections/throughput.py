"""How throughput scales with the batch (rules 7 and 14)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mnistbench.report import charts, statistics
from mnistbench.report.blocks import NO_BLOCKS, NOT_TRAINED, cycle_table
from mnistbench.report.exhibit import Exhibit, highest, lowest, nothing, rows_of
from mnistbench.report.labels import labels
from mnistbench.report.palette import DASHES, FAINT, PAPER
from mnistbench.report.repeats import counted, measured, repeats
from mnistbench.report.samples import blocks_of
from mnistbench.report.sections.section import (
    Answer,
    Part,
    Question,
    Section,
    Study,
    bare_profiles,
    groups,
    left_to_the_table,
)
from mnistbench.report.tables import SETTING, Column, of_kind, shared, table
from mnistbench.words.wording import listed, plural, rate, short_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

ABOUT = ["group", "settings", *SETTING.split()]
MEDIANS = ["eval_examples_per_second", "peak_share"]


def _answer(study: Study) -> Answer:
    """How does throughput scale?"""
    question = Question("throughput", "How does throughput scale with the batch?", "Throughput")
    exhibit = throughput_by_batch(study.frame, study.blocks)
    if not exhibit:
        return Answer.without(question, exhibit)
    scales = exhibit.frame["batch_size"].nunique() > 1
    lead = "Examples ÷ seconds of the blocks, or of the whole trainings where no blocks were timed."
    if scales:
        lead += (
            " Lines are medians over optimizers and seeds, the bands their whole range; the"
            " dotted line is what a device would do if twice the batch took no longer."
        )
    else:  # a chart of one batch size says less than its table
        question = Question("throughput", "How fast does it train?", "Throughput")
    parts = []
    for heading, suffix, rows in groups(exhibit.frame):
        several = rows["execution_label"].nunique() > 1
        drawn = bare_profiles(rows) if scales else []
        for execution, own in rows[rows["execution_label"].isin(drawn)].groupby("execution_label"):
            stem = (charts.stem("throughput", execution) if several else "throughput") + suffix
            drawings = [throughput_chart(own, stem), throughput_chart(own, f"{stem}-evaluation", evaluation=True)]
            title = " · ".join(part for part in (heading, str(execution) if several else "") if part)
            parts.append(Part(title, charts=[chart for chart in drawings if chart]))
        columns = [
            *shared(SETTING),
            Column("examples_per_second", "training examples/s", "rate"),
            *of_kind("rate", "low high"),
            *shared("interval"),
            Column("eval_examples_per_second", "evaluation examples/s", "rate"),
            *shared("peak_share"),
            Column("status", "status", "tag"),
            *shared("flags"),
        ]
        shown = table(rows, columns, name=f"throughput-table{suffix}", caption="Examples per second by batch size")
        if scales:
            parts.append(Part(sentences=left_to_the_table(rows), table=shown))
        else:
            parts.append(Part(heading, table=shown, disclosed=False))
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes)


def throughput_by_batch(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """Examples per second by batch size: one row per settings; out-of-memory cells are rows without a number.

    The mean of the blocks, else the median of the seeds.
    """
    frame = counted(frame)
    rows = measured(frame, ["finished", "out_of_memory", NOT_TRAINED])
    if rows.empty:
        return nothing("No cell finished, so there is no throughput to show.")
    series = labels(frame, "any_batch", without=("batch",))
    timed = {group: cycle_table(blocks_of(blocks, frame, group)) for group in rows["group"].unique()}
    table = []
    for runs in repeats(rows):
        done = runs["status"] == "finished"
        values = runs.floats("examples_per_second")[done]
        shown = statistics.summarize(values[~np.isnan(values)])
        by_blocks = runs.settings in timed[runs.group].settings
        if by_blocks:
            shown = timed[runs.group].speed(runs.settings)
        table.append(
            {
                **{name: runs.first(name) for name in ABOUT},
                "series": series[runs.first("any_batch")],
                **shown.columns("examples_per_second"),
                **{name: pd.Series(runs.floats(name)[done]).median() for name in MEDIANS},
                "status": runs.first("status") if not done.any() else "ok",
                "flags": runs.flags(timed=by_blocks),
            }
        )
    order = ["group", "series", "batch_size"]
    return Exhibit(pd.DataFrame(table).sort_values(order, kind="stable").reset_index(drop=True))


def throughput_chart(rows: pd.DataFrame, name: str, *, evaluation: bool = False) -> charts.Chart | None:
    """Examples per second over the batch size, both log: colour and marker by network, line style by device."""
    import seaborn as sns

    value = "eval_examples_per_second" if evaluation else "examples_per_second"
    known = rows[rows[value].notna() & (rows[value] > 0)]
    if known.empty:
        return None
    keys = ["architecture_label", "device"]
    series = list(dict.fromkeys(known[keys].itertuples(index=False, name=None)))
    by_network = charts.looks(architecture for architecture, _ in series)
    dashes = dict(zip(dict.fromkeys(device for _, device in series), DASHES, strict=False))
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 3.5)
        charts.batch_axis(axes, rows["batch_size"])
        charts.log_axis(axes, "y", known[value].min() / 1.1, known[value].max() * 1.1, short_rate)
        handles, labels = [], []
        for architecture, device in series:
            own = known[(known["architecture_label"] == architecture) & (known["device"] == device)]
            look = replace(by_network[architecture], dashes=dashes[device])
            whole = own.groupby("batch_size")[value].agg(["median", "min", "max"]).reset_index()
            sns.lineplot(  # which on a log axis would take medians of logarithms
                data=whole, x="batch_size", y="median", estimator=None, errorbar=None, ax=axes, legend=False,
                color=look.colour, marker=look.marker, dashes=False, markeredgecolor=PAPER.light,
                linestyle=(0, look.dashes) if look.dashes else "-",
            )  # fmt: skip
            banded = len(series) <= charts.MOST_BANDS
            charts.ranges(axes, whole, ("batch_size", "min", "max"), look.colour, band=banded)
            handles.append(charts.handle(look))
            parts = [architecture] * (len(by_network) > 1) + [device] * (len(dashes) > 1)
            labels.append(" · ".join(parts) or "measured")
        handles.append(_ideal_line(axes, known, value))
        labels.append("twice the batch, twice the rate")
        failed = rows[rows["status"] == "out_of_memory"]
        floor = axes.get_ylim()[0]
        for row in rows_of(failed.drop_duplicates([*keys, "batch_size"])):
            charts.cross(axes, row.batch_size, floor * 1.08)
        if len(failed):
            handles.append(charts.cross_handle())
            labels.append("out of memory")
        axes.set(ylabel="examples per second (log)")
        charts.legend(figure, handles, labels)
    best, worst = highest(known, value), lowest(known, value)
    what = "Evaluation" if evaluation else "Training"
    of = f" of {listed(labels[: len(series)])}" if len(series) > 1 else ""
    alt = (
        f"{what} throughput{of}: highest {rate(getattr(best, value))} examples/s"
        f" ({best.architecture_label} on {best.device} at batch {best.batch_size}), lowest"
        f" {rate(getattr(worst, value))} ({worst.architecture_label} on {worst.device} at batch {worst.batch_size})."
        + (f" {plural(len(failed), 'setting')} ran out of memory." if len(failed) else "")
    )
    return charts.Chart(name, f"{what}: examples per second", alt, figure)


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


SECTION = Section(_answer)
