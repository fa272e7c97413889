"""What each speed lever buys: one added to a profile, one left out of it (rule 19)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Any

import pandas as pd

from mnistbench.axes.execution import plain
from mnistbench.report import charts, palette
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.labels import labels
from mnistbench.report.palette import MUTED
from mnistbench.report.repeats import counted, measured
from mnistbench.report.sections.section import MOST_SENTENCES, Answer, Part, Question, Section, Study, groups
from mnistbench.report.tables import SETTING, Column, of_kind, shared, table
from mnistbench.report.verdicts import ratios
from mnistbench.words.wording import interval_text, percent, plural, times

START_UP_LEVERS = ("compile", "graph")
"""Parts of the names of levers that cost something before the first step, and so have a break-even point."""
MOST_ROWS = 24
ABOUT = SETTING.removesuffix(" device execution_label")


def _answer(study: Study) -> Answer:
    """What does each lever buy?"""
    question = Question("levers", "What does each lever buy?", "Speed levers")
    exhibit = lever_effects(study.frame, study.blocks)
    if not exhibit:
        return Answer.without(question, exhibit)
    titles = {
        "add-one": "one lever added to",
        "leave-one-out": "one lever left out of",
        "profile": "the whole profile over",
        "several": "several levers on",
    }
    parts = []
    for heading, suffix, rows in groups(exhibit.frame):
        figures = []
        several = rows["device"].nunique() > 1
        for (device, profile, kind), own in rows.groupby(["device", "profile", "kind"], sort=False):
            if own["ratio"].notna().any():
                title = f"{titles.get(str(kind), str(kind))} {profile}"
                title = f"{device!s}: {title}" if several else title.capitalize()
                figures.append(levers_chart(own, charts.stem("levers", device, profile, kind) + suffix, title))
        columns = [
            *shared("device"),
            Column("profile", "profile", filtered=True),
            Column("kind", "kind", filtered=True),
            Column("lever", "lever", "name", filtered=True),
            *shared(ABOUT),
            Column("ratio", "throughput ratio", "ratio"),
            *of_kind("ratio", "low high"),
            *of_kind("count", "n"),
            *shared("peak_share"),
            Column("break_even_examples", "pays after, examples", "count"),
            *shared("verdict text"),
        ]
        caption = "Throughput with the lever over the bare profile"
        shown = table(rows, columns, name=f"levers-table{suffix}", caption=caption)
        parts.append(Part(heading, charts=figures[: charts.MOST_PANELS], table=shown, disclosed=bool(figures)))
    lead = (
        "Throughput with the lever set over the bare profile. Levers interact, so both ways are shown: added alone to"
        " plain, and left out of fast, where a value below 1× says what it was worth. A dot is one network and batch"
        " size, the bar their median; the peak is the rate of a matrix product that was measured here."
    )
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes)


def lever_effects(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """Cells that differ from a bare profile (`plain`, `fast`) in levers only, against that profile.

    The ratio is the throughput with the lever set over the bare profile; below 1 in `leave-one-out` it means that the
    lever left out was worth 1 ÷ ratio. Break-even examples: after which the start-up has paid for itself.
    """
    frame = counted(frame)
    rows = measured(frame, ["finished"])
    if rows["execution_label"].nunique() < 2:
        return nothing("All cells ran with the same execution, so there is nothing to say of single levers.")
    pairs = list(ratios(frame, "examples_per_second", blocks, _lever_pairs(rows)))
    if not pairs:
        return nothing("No cell differs from a bare profile in its levers only, on the same machine and build.")
    series = labels(frame, "any_execution", without=("execution",))
    about = {row["settings"]: row for row in rows.drop_duplicates("settings").to_dict("records")}
    measures = ["peak_share", "setup_seconds", "warmup_seconds", "examples_per_second"]
    costs = rows.groupby(["group", "settings"])[measures].median().to_dict("index")
    table = []
    for pair in pairs:
        with_lever, profile = about[pair["settings_a"]], about[pair["settings_b"]]
        kind, lever = _change(str(with_lever["execution_label"]), str(profile["execution"]))
        aside = dict(part.partition(": ")[::2] for part in str(with_lever["stepped_aside"]).split("; ") if part)
        stepped_aside = lever.partition("=")[0] in aside
        if stepped_aside:
            reason = f"stepped aside: {aside[lever.partition('=')[0]]}"
            pair |= {"verdict": "", "reason": reason, "text": reason}
        sides = costs[pair["group"], pair["settings_a"]], costs[pair["group"], pair["settings_b"]]
        table.append(
            {
                **pair,
                "device": pair["device_a"],
                "series": series[with_lever["any_execution"]],
                **{name: with_lever[name] for name in ABOUT.split()},
                "kind": kind,
                "profile": profile["execution"],
                "lever": lever,
                "peak_share": sides[0]["peak_share"],
                "break_even_examples": math.nan if stepped_aside else _break_even(kind, lever, pair["ratio"], sides),
            }
        )
    order = ["group", "series", "profile", "kind", "lever"]
    return Exhibit(pd.DataFrame(table).sort_values(order, ignore_index=True))


def _lever_pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(settings with levers, settings of the bare profile), and fast against plain."""
    pairs: list[tuple[str, str]] = []
    for _, same in rows.drop_duplicates("settings").groupby("any_execution", sort=False):
        is_bare = same["execution_label"] == same["execution"]
        bare = same[is_bare].set_index("execution")["settings"].to_dict()
        levered = same[~is_bare & same["execution"].isin(bare)]
        pairs += zip(levered["settings"], levered["execution"].map(bare), strict=True)
        if {"plain", "fast"} <= set(bare):
            pairs.append((bare["fast"], bare["plain"]))
    return pairs


def _change(label: str, profile: str) -> tuple[str, str]:
    """Kind and name of what sets an execution apart from a profile, from its label `fast(precision=bf16)`."""
    name, _, inside = label.partition("(")
    if not inside:
        return "profile", name
    options = inside.removesuffix(")").split(", ")
    if len(options) > 1:
        return "several", ", ".join(options)
    lever, _, value = options[0].partition("=")
    off = plain().to_json().get(lever)
    left_out = profile != "plain" and off is not None and value == (f"{off:g}" if isinstance(off, float) else str(off))
    return "leave-one-out" if left_out else "add-one", options[0]


def _break_even(kind: str, lever: str, ratio: float, sides: tuple[dict[Hashable, Any], dict[Hashable, Any]]) -> float:
    """Examples to train until the lever's start-up is earned back, at the ratio that is shown; inf when it never is."""
    if kind == "several" or not ratio > 0 or not any(name in lever for name in START_UP_LEVERS):
        return math.nan
    (having, lacking), gain = (sides, ratio) if kind == "add-one" else (sides[::-1], 1 / ratio)
    start_up = [side["setup_seconds"] + side["warmup_seconds"] for side in (having, lacking)]
    if gain <= 1:
        return math.inf
    seconds_gained = (1 - 1 / gain) / lacking["examples_per_second"]
    return float(max(0.0, start_up[0] - start_up[1]) / seconds_gained)


def _sentences(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    effects = lever_effects(frame, blocks)
    if not effects:
        return
    rows = effects.frame[effects.frame["ratio"].notna()]
    profiles = rows[rows["kind"] == "profile"].sort_values("ratio", ascending=False)
    for row in profiles.head(MOST_SENTENCES).to_dict("records"):
        ratio = f"{times(row['ratio'])} {interval_text(row['low'], row['high'])}".rstrip()
        yield (
            f"{row['series']}: {row['lever']} makes {ratio} the examples/s of {row['profile']} "
            f"({'blocks of training' if row['timed'] else 'training clock'}, n = {row['n']}): {row['text']}."
        )
    left_out = rows[(rows["kind"] == "leave-one-out") & (rows["verdict"] != "")].sort_values("ratio")
    if len(left_out):
        missed = left_out[left_out["verdict"] == "slower"].to_dict("records")
        most = [f"{row['series']} with {row['lever']} {times(row['ratio'])}" for row in missed[:MOST_SENTENCES]]
        told = f": {'; '.join(most)}" if most else ""
        count = plural(len(left_out), "setting")
        yield f"{len(missed)} of {count} with one lever left out proven slower than its profile{told}."


def levers_chart(rows: pd.DataFrame, name: str, title: str) -> charts.Chart:
    """What each lever does to throughput, one dot a series, the bar their median; peak share beside it."""
    known = rows.dropna(subset=["ratio"])
    middle = known.groupby("lever")["ratio"].median().sort_values(ascending=False).head(MOST_ROWS)
    order = list(middle.index)
    known = known[known["lever"].isin(order)]
    places = {lever: place for place, lever in enumerate(order)}
    seen = charts.looks(known["architecture_label"])
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.8 + 0.4 * len(order))
        axes.barh(range(len(order)), middle - 1, left=1, height=0.5, color=palette.SEQUENTIAL[2].light)
        for label, look in seen.items():
            own = known[known["architecture_label"] == label]
            up = own["lever"].map(places)
            axes.scatter(own["ratio"], up, 34, look.colour, marker=look.marker, **charts.DOT)
            ranged = own.dropna(subset=["low", "high"])
            axes.hlines(up[ranged.index], ranged["low"], ranged["high"], color=look.colour, linewidth=1)
        ends = [1.0, *known[["ratio", "low", "high"]].stack()]
        charts.log_axis(
            axes, "x", min(end for end in ends if end > 0), max(ends), lambda value: f"{value:g}×", one=True
        )
        texts = []
        shares = known.groupby("lever")["peak_share"].median()
        for lever in order:
            share = shares[lever]
            extra = f", {percent(share, 0)} of peak" if pd.notna(share) else ""
            texts.append(f"{charts.two_lines(lever)}\n{times(middle[lever])}{extra}")
        axes.axvline(1, color=MUTED.light, linewidth=1)
        charts.row_labels(axes, texts)
        axes.set(xlabel="throughput over the bare profile (log)")
        charts.legend(figure, [charts.handle(look, linestyle="none") for look in seen.values()], list(seen))
    top, last = order[0], order[-1]
    alt = f"{title}: throughput over the bare profile {times(middle[top])} with {top}"
    alt += f", down to {times(middle[last])} with {last}." if last != top else "."
    return charts.Chart(name, title, alt, figure)


SECTION = Section(_answer, _sentences)
