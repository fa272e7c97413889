"""What each speed lever buys: one added to a profile, one left out of it (rule 19)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from mnistbench.report import charts, palette
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, nothing, rows_of
from mnistbench.report.labels import labels
from mnistbench.report.palette import MUTED, PAPER
from mnistbench.report.repeats import counted, measured
from mnistbench.report.sections.section import (
    MOST_PANELS,
    MOST_SENTENCES,
    Answer,
    Part,
    Question,
    Section,
    Study,
    groups,
    slug,
    unanswered,
)
from mnistbench.report.tables import Column, of_kind, shared, table
from mnistbench.report.verdicts import Pair, compare, ratio_columns
from mnistbench.words.wording import interval_text, percent, plural, times

PROFILES = ("plain", "fast")
START_UP_LEVERS = ("compile", "graph")
"""Parts of the names of levers that cost something before the first step, and so have a break-even point."""
MOST_ROWS = 24


def _answer(study: Study) -> Answer:
    """What does each lever buy?"""
    question = Question("levers", "What does each lever buy?", "Speed levers")
    exhibit = lever_effects(study.frame, study.blocks)
    if not exhibit:
        return unanswered(question, exhibit)
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
                figures.append(levers_chart(own, slug("levers", device, profile, kind) + suffix, title))
        shown = table(
            rows,
            [
                *shared("device"),
                Column("profile", "profile", filtered=True),
                Column("kind", "kind", filtered=True),
                Column("lever", "lever", "name", filtered=True),
                *shared("architecture_label optimizer_label batch_size"),
                Column("ratio", "throughput ratio", "ratio"),
                *of_kind("ratio", "low high"),
                Column("n", "n", "count"),
                *shared("peak_share"),
                Column("break_even_examples", "pays after, examples", "count"),
                *shared("verdict text"),
            ],
            name=f"levers-table{suffix}",
            caption="Throughput with the lever over the bare profile",
        )
        parts.append(Part(heading, charts=figures[:MOST_PANELS], table=shown, disclosed=bool(figures)))
    lead = (
        "Throughput with the lever set over the bare profile. Levers interact, so both ways are shown: added alone to"
        " plain, and left out of fast, where a value below 1× says what it was worth."
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
    chosen = _lever_pairs(rows)
    by_group = compare(frame, "examples_per_second", blocks, chosen)
    pairs = [(group, pair) for group, own in by_group.items() for pair in own]
    if not pairs:
        return nothing("No cell differs from a bare profile in its levers only, on the same machine and build.")
    series = labels(frame, "any_execution", without=("execution",))
    about = {row["settings"]: row for row in rows.drop_duplicates("settings").to_dict("records")}
    medians = rows.groupby(["group", "settings"])[
        ["peak_share", "setup_seconds", "warmup_seconds", "examples_per_second"]
    ].median()
    costs = {key: {str(name): value for name, value in row.items()} for key, row in medians.to_dict("index").items()}
    table = []
    for group, pair in pairs:
        with_lever, profile = about[pair.a.settings], about[pair.b.settings]
        kind, lever = _change(str(with_lever["execution_label"]), str(profile["execution"]))
        columns = ratio_columns(pair)
        aside = dict(part.partition(": ")[::2] for part in str(with_lever["stepped_aside"]).split("; ") if part)
        if lever.partition("=")[0] in aside:
            reason = f"stepped aside: {aside[lever.partition('=')[0]]}"
            columns |= {"verdict": "", "reason": reason, "text": reason}
        sides = costs[group, pair.a.settings], costs[group, pair.b.settings]
        table.append(
            {
                "group": group,
                "device": pair.a.device,
                "series": series[with_lever["any_execution"]],
                **{name: with_lever[name] for name in ("architecture_label", "optimizer_label", "batch_size")},
                "kind": kind,
                "profile": profile["execution"],
                "lever": lever,
                "settings": pair.a.settings,
                **columns,
                "peak_share": sides[0]["peak_share"],
                "break_even_examples": _break_even(pair, kind, lever, sides)
                if not math.isnan(columns["ratio"])
                else math.nan,
            }
        )
    order = ["group", "series", "profile", "kind", "lever"]
    return Exhibit(pd.DataFrame(table).sort_values(order, ignore_index=True))


def _lever_pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(settings with levers, settings of the bare profile), and fast against plain."""
    pairs = []
    for _, same in rows.drop_duplicates("settings").groupby("any_execution", sort=False):
        bare = {
            str(row["execution"]): str(row["settings"])
            for row in same.to_dict("records")
            if row["execution_label"] == row["execution"]
        }
        for row in same.to_dict("records"):
            settings, profile = str(row["settings"]), str(row["execution"])
            if settings not in bare.values() and profile in bare:
                pairs.append((settings, bare[profile]))
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
    off = _plain_levers().get(lever)
    left_out = profile != "plain" and off is not None and value == off
    return "leave-one-out" if left_out else "add-one", options[0]


def _plain_levers() -> Mapping[str, str]:
    """Each lever's value in the profile `plain`, as labels write it."""
    from mnistbench.axes.execution import plain

    levers = plain().to_json()
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in levers.items()}


def _break_even(pair: Pair, kind: str, lever: str, sides: tuple[dict[str, Any], dict[str, Any]]) -> float:
    """Examples to train until the lever's start-up is earned back; inf when it never is."""
    if kind == "several" or not any(name in lever for name in START_UP_LEVERS):
        return math.nan
    having, lacking = sides if kind == "add-one" else sides[::-1]
    start_up = [float(side["setup_seconds"] + side["warmup_seconds"]) for side in (having, lacking)]
    seconds_gained = 1 / float(lacking["examples_per_second"]) - 1 / float(having["examples_per_second"])
    if seconds_gained <= 0:
        return math.inf
    return max(0.0, start_up[0] - start_up[1]) / seconds_gained


def _sentences(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    found = lever_effects(frame, blocks)
    if not found:
        return
    rows = found.frame[found.frame["ratio"].notna()]
    profiles = rows[rows["kind"] == "profile"].sort_values("ratio", ascending=False)
    for row in profiles.head(MOST_SENTENCES).to_dict("records"):
        ratio = f"{times(row['ratio'])} {interval_text(row['low'], row['high'])}".rstrip()
        yield (
            f"{row['series']}: {row['lever']} makes {ratio} the examples/s of {row['profile']} "
            f"({'blocks of training' if row['verdict'] else 'training clock'}, n = {row['n']}): {row['text']}."
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
    import seaborn as sns

    known = rows.dropna(subset=["ratio"])
    order = list(known.groupby("lever")["ratio"].median().sort_values(ascending=False).index)[:MOST_ROWS]
    known = known[known["lever"].isin(order)]
    places = {lever: place for place, lever in enumerate(order)}
    seen = charts.looks(known["architecture_label"])
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.8 + 0.4 * len(order))
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
        charts.log_axis(axes, "x", ends.min(), ends.max(), lambda value: f"{value:g}×", one=True)
        texts = []
        for lever in order:
            share = known.loc[known["lever"] == lever, "peak_share"].median()
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
