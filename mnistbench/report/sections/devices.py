"""What another device buys, steady and from cold (rule 20)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mnistbench.report import charts, palette
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, highest, lowest, nothing, rows_of
from mnistbench.report.labels import labels
from mnistbench.report.palette import INK, MUTED, PAPER
from mnistbench.report.repeats import counted
from mnistbench.report.samples import Metric
from mnistbench.report.sections.section import MOST_SENTENCES, Answer, Part, Question, Section, Study, groups
from mnistbench.report.tables import SETTING, Column, of_kind, shared, table
from mnistbench.report.verdicts import ratios
from mnistbench.words.wording import interval_text, plural, ratio_range, times

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLOCKS: dict[str, Metric] = {"steady": "examples_per_second", "cold": "cold_seconds"}
MOST_ROWS = 24
MOST_CROSSINGS = 8
ABOUT = SETTING.replace(" device", "")


def _answer(study: Study) -> Answer:
    """GPU or CPU?"""
    question = Question("devices", "GPU or CPU?", "GPU or CPU")
    exhibit = device_speedups(study.frame, study.blocks)
    if not exhibit:
        return Answer.without(question, exhibit)
    crossings = crossovers(study.frame, study.blocks)
    parts = []
    for heading, suffix, rows in groups(exhibit.frame):
        figures = [
            speedup_map(own, charts.stem("speed-up", device, clock) + suffix, str(clock))
            for (device, clock), own in rows.groupby(["device", "clock"], sort=False)
            if own["ratio"].notna().any()
        ]
        sentences = list(crossings.frame.loc[crossings.frame["group"] == rows["group"].iloc[0], "sentence"].unique())
        if len(sentences) > MOST_CROSSINGS:
            rest = len(sentences) - MOST_CROSSINGS + 1
            sentences = [*sentences[: MOST_CROSSINGS - 1], f"{rest} more series stand in the table."]
        columns = [
            Column("clock", "clock", filtered=True),
            *shared("device"),
            Column("baseline", "over"),
            *shared(ABOUT),
            Column("ratio", "speed-up", "ratio"),
            *of_kind("ratio", "low high"),
            *of_kind("count", "n"),
            *shared("verdict text"),
        ]
        caption = "Speed-up of the device over the baseline"
        shown = table(rows, columns, name=f"speed-ups-table{suffix}", caption=caption)
        parts.append(Part(heading, sentences=sentences, charts=figures, table=shown, disclosed=bool(figures)))
    lead = (
        "How many times faster the device trains the same cell than the baseline: steady (blocks of training, timed in"
        " the same cycles) and from cold (process start to the last evaluation, values without a verdict). Hatched"
        " cells are open; a dash has its reason in the table."
    )
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes)


def device_speedups(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """How much faster each device trains than the baseline (the CPU where there is one): same cell, other device.

    Steady by the blocks of the same cycles, and cold from process start to the last evaluation, as values without a
    verdict. The ratio is NaN where it may not be shown.
    """
    frame = counted(frame)
    rows = frame[(frame["group"] != "") & (frame["repeat"] == 0)]
    if rows[rows["status"] == "finished"]["device"].nunique() < 2:
        return nothing("Cells finished on one device only, so there is no speed-up between devices to show.")
    chosen = _device_pairs(rows)
    if not chosen:
        return nothing("No settings finished on two devices.")
    series = labels(frame, "any_batch_device", without=("batch", "device"))
    about = {row["settings"]: row for row in frame.drop_duplicates("settings").to_dict("records")}
    table = []
    for clock, metric in CLOCKS.items():
        for pair in ratios(frame, metric, blocks, chosen):
            settings = about[pair["settings_a"]]
            sides = {"device": pair["device_a"], "baseline": pair["device_b"]}
            kept = {"clock": clock, "series": series[settings["any_batch_device"]]}
            table.append({**pair, **sides, **kept, **{name: settings[name] for name in ABOUT.split()}})
    if not table:
        return nothing("No settings ran on two devices of the same machine and build.")
    order = ["group", "clock", "series", "device", "batch_size"]
    ordered = pd.DataFrame(table).sort_values(order, ascending=[True, False, True, True, True], ignore_index=True)
    untimed = {settings for pair in chosen for settings in pair} - set(blocks["settings"])
    return Exhibit(ordered, notes=_short_notes(rows[rows["settings"].isin(untimed)]))


def _short_notes(rows: pd.DataFrame) -> tuple[str, ...]:
    """A fast device makes a cell short first: its own rate then favours the slow one."""
    short = int(rows["short"].sum())
    if not short:
        return ()
    return (
        f"{plural(short, 'cell')} of this comparison trained for under 1 s or 50 steps, and no blocks were timed."
        " Do not publish the comparison so: time blocks, or run it with more epochs, until none is short.",
    )


def _device_pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(settings on a device, the same on the baseline), baseline last."""
    kinds = rows.drop_duplicates("settings")
    pairs = []
    for _, same in kinds.groupby("any_device", sort=False):
        by_device = dict(zip(same["device"], same["settings"], strict=True))
        if len(by_device) < 2:
            continue
        baseline = "cpu" if "cpu" in by_device else min(by_device)
        pairs += [(settings, by_device[baseline]) for device, settings in by_device.items() if device != baseline]
    return pairs


def crossovers(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """From which batch size on the device is faster: one row per series, device and clock.

    The crossover is the smallest batch from which every larger one is `faster` (from cold by value), or NA.
    """
    speedups = device_speedups(frame, blocks)
    if not speedups:
        return nothing(speedups.reason)
    keys = ["group", "clock", "baseline", "device", "series", "architecture_label", "optimizer_label"]
    table = []
    for key, rows in speedups.frame.groupby(keys, sort=False):
        known = rows.dropna(subset=["ratio"])
        best = highest(known, "ratio") if len(known) else None
        batch = _crossover(known)
        table.append(
            {
                **dict(zip(keys, key, strict=True)),
                "crossover_batch": batch,
                "largest_ratio": best.ratio if best else math.nan,
                "at_batch": best.batch_size if best else None,
                "sentence": _sentence(rows, known, best, batch),
            }
        )
    return Exhibit(pd.DataFrame(table).astype({"crossover_batch": "Int64", "at_batch": "Int64"}))


def _crossover(known: pd.DataFrame) -> int | None:
    """The smallest batch from which on every one compared is proven faster; from cold, is faster by value."""
    smallest = None
    for row in rows_of(known.sort_values("batch_size", ascending=False, kind="stable")):
        if not (row.verdict == "faster" or (row.clock == "cold" and row.ratio > 1)):
            break
        smallest = int(row.batch_size)
    return smallest


def _sentence(rows: pd.DataFrame, known: pd.DataFrame, best: Any, batch: int | None) -> str:
    """What is said of one series, from the rows that have a ratio, and the one with the largest."""
    first = next(rows_of(rows))
    device, baseline, series, cold = first.device, first.baseline, first.series, first.clock == "cold"
    if best is None:
        return f"{series}: {device} against {baseline} is not shown ({first.reason})."
    ends = interval_text(best.low, best.high)
    clock = "blocks of training" if best.timed else "training clock"
    ratio = (
        f"{times(best.ratio)} {ends + ' ' if ends else ''}at batch {best.batch_size}"
        f" ({'from process start to the last evaluation' if cold else clock}, n = {best.n})"
    )
    if batch is None:
        why = "" if (rows["verdict"] != "").any() else f" ({best.reason})"
        proven = "not faster" if cold else "not proven faster"
        return f"{series}: {device} is {proven} than {baseline} at the largest batch size{why}; {ratio}."
    where = "at every batch size measured" if batch == known["batch_size"].min() else f"from batch {batch} on"
    without = [str(size) for size in rows.loc[rows["ratio"].isna(), "batch_size"]]
    but = f" but {', '.join(without)}, which has no ratio" if without else ""
    return f"{series}: {device} is faster than {baseline} {where}{but}{', by value' if cold else ''}, {ratio}."


def _sentences(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    exhibit = crossovers(frame, blocks)
    if not exhibit:
        return
    for _, rows in exhibit.frame.groupby("clock", sort=False):
        ordered = rows.sort_values("largest_ratio", ascending=False)
        yield from ordered["sentence"].head(MOST_SENTENCES)
        if len(rows) > MOST_SENTENCES:
            yield f"{plural(len(rows) - MOST_SENTENCES, 'more device pair')} in the table."


def speedup_map(rows: pd.DataFrame, name: str, clock: str) -> charts.Chart:
    """Ratios of a device over the baseline: series down, batch across; blue faster, orange slower, hatched open."""
    import seaborn as sns

    baseline, device = rows["baseline"].iloc[0], rows["device"].iloc[0]
    table = rows.pivot_table(
        index="series", columns="batch_size", values="ratio", aggfunc="first", dropna=False, sort=False
    )
    table = table.reindex(sorted(table.columns), axis=1).iloc[:MOST_ROWS]
    steps = table.map(_diverging_step).to_numpy(dtype=float)
    by_place = {(row.series, row.batch_size): row for row in rows_of(rows)}
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.8 + 0.5 * len(table))
        sns.heatmap(
            steps, ax=axes, cbar=False, cmap=[colour.light for colour in palette.DIVERGING], vmin=-0.5,
            vmax=len(palette.DIVERGING) - 0.5, linewidths=2, linecolor=PAPER.light,
        )  # fmt: skip
        for down, series in enumerate(table.index):
            for across, batch in enumerate(table.columns):
                if row := by_place.get((series, batch)):
                    _speedup_cell(axes, across, down, row, steps[down, across])
        axes.set_xticks(np.arange(len(table.columns)) + 0.5, [f"{batch:,}" for batch in table.columns], rotation=0)
        names = [charts.two_lines(series) for series in table.index]
        axes.set_yticks(np.arange(len(table)) + 0.5, names, rotation=0, fontsize=9, color=INK.light)
        axes.set(xlabel="batch size", ylabel="")
        axes.tick_params(length=0)
        axes.grid(visible=False)
    known = rows.dropna(subset=["ratio"])
    most, least = highest(known, "ratio"), lowest(known, "ratio")
    undecided = int((rows["verdict"] == "open").sum())
    open_ = f"; {undecided} of {len(known)} open (hatched)" if (rows["verdict"] != "").any() else ""
    alt = (
        f"{device} over {baseline}, {'training seconds' if clock == 'steady' else 'from the start of the process'}:"
        f" from {times(least.ratio)} ({least.series}, batch {least.batch_size}) to {times(most.ratio)}"
        f" ({most.series}, batch {most.batch_size}){open_}."
        + (
            f" {MOST_ROWS} of {rows['series'].nunique()} rows are drawn."
            if len(table) < rows["series"].nunique()
            else ""
        )
    )
    title = f"{device} against {baseline}, {'steady' if clock == 'steady' else 'from cold'}"
    return charts.Chart(name, title, alt, figure)


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


SECTION = Section(_answer, _sentences)
