"""Questions about time: who is first, what time buys, which device, which batch, which lever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from mnistbench.report import levers as lever_tables
from mnistbench.report import ranking, speed, speed_charts, time_charts
from mnistbench.report.frame import targets_in
from mnistbench.report.page_rows import rows_of
from mnistbench.report.sections.section import MOST_PANELS, Part, Question, Section, Study, groups, slug, unanswered
from mnistbench.report.tables import Column, table
from mnistbench.words.wording import missing, percent, plural, seconds_interval

SETTINGS = [
    Column("architecture_label", "architecture", "name", filtered=True),
    Column("optimizer_label", "optimizer", "name", filtered=True),
    Column("batch_size", "batch", "count", filtered=True),
    Column("device", "device", filtered=True, hidden=True),
]

EXECUTION = Column("execution_label", "execution", "name", filtered=True, hidden=True)

MOST_SENTENCES = 8

BOARD = [
    Column("order", "#", "count"),
    Column("rank_text", "rank", order="rank"),
    Column("time_text", "time to target", order="seconds_to_target", below="interval_text"),
    *SETTINGS[:2],
    Column("schedule_label", "schedule", "name", filtered=True, hidden=True),
    *SETTINGS[2:],
    EXECUTION,
    Column("reached_text", "reached", order="reached"),
    Column("epochs_to_target", "epochs", "whole"),
    Column("clock_seconds_to_target", "own clock", "reachable"),
    Column("cold_seconds_to_target", "from cold", "reachable"),
    Column("test_accuracy", "test accuracy", "percent"),
    Column("diverged", "diverged seeds", "count"),
    Column("unranked", "ranked nowhere", "long"),
    Column("best_test_accuracy", "best of any seed", "percent", hidden=True),
    Column("examples_per_second", "examples/s", "rate"),
    Column("equivalence", "equivalence", "tag", hidden=True),
    Column("flags", "flags", "words"),
]


def first(study: Study) -> Section:
    """Which is first at the target?"""
    question = Question("first", "Which is first at the target?", "First at the target")
    if not targets_in(study.frame):
        question = Question("first", "Which is most accurate?", "Most accurate")
    exhibit = ranking.leaderboard(study.frame, study.blocks)
    if not exhibit:
        return unanswered(question, exhibit)
    parts = []
    for heading, suffix, rows in _by_target(exhibit.frame):
        board = rows.sort_values("order")
        columns = BOARD[1:] if board["rank"].notna().all() else BOARD
        board = board.assign(
            time_text=[str(text).partition(" (")[0].replace("no target", "") for text in board["seconds_text"]],
            interval_text=[_interval(row) for row in rows_of(board)],
            reached_text=[_reached(row) for row in rows_of(board)],
            diverged=board["diverged"].where(board["diverged"] > 0),
        )
        chart = time_charts.first_at_target(board, f"time-to-target{suffix}")
        name = f"leaderboard{suffix}"
        caption = "Settings by median time to target" if chart else "Settings by test accuracy"
        parts.append(Part(heading, table=table(board, columns, name=name, caption=caption), disclosed=False))
        if chart:
            parts.append(Part(charts=[chart]))
    lead = "A rank is one more than the number of settings proven better, and 2–4 says which ranks it may have."
    if targets_in(study.frame):
        lead = (
            "Steps to the first evaluation that passes the target, at the seconds a step of the blocks (of the runs'"
            f" own clock where there are none); evaluation is off the clock. {lead}"
        )
    return Section(question, lead=lead, parts=parts, notes=exhibit.notes)


def time(study: Study) -> Section:
    """What does time buy?"""
    question = Question("time", "What does time buy?", "Error over time")
    exhibit = ranking.time_curves(study.frame, study.epochs)
    if not exhibit:
        return unanswered(question, exhibit)
    parts = []
    for heading, suffix, rows in groups(exhibit.frame):
        front = rows[rows["pareto"].astype(bool)].sort_values("seconds")
        shown = table(
            front,
            [
                *SETTINGS,
                Column("epoch", "epoch", "count"),
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
        charts = [time_charts.time_buys(rows, f"error-over-time{suffix}")] if len(drawable) else []
        parts.append(Part(heading, charts=charts, table=shown, disclosed=bool(charts)))
    lead = (
        "Each line is one setting, its median over seeds; the thin steps are the Pareto front, where nothing else was"
        " both faster and better. Bands are the range of the seeds."
    )
    return Section(question, lead=lead, parts=parts, notes=exhibit.notes)


def devices(study: Study) -> Section:
    """GPU or CPU?"""
    question = Question("devices", "GPU or CPU?", "GPU or CPU")
    exhibit = speed.device_speedups(study.frame, study.blocks)
    if not exhibit:
        return unanswered(question, exhibit)
    crossings = speed.crossovers(study.frame, study.blocks)
    parts = []
    for heading, suffix, rows in groups(exhibit.frame):
        charts = [
            speed_charts.speedup_map(own, slug("speed-up", device, clock) + suffix, str(clock))
            for (device, clock), own in rows.groupby(["device", "clock"], sort=False)
            if own["ratio"].notna().any()
        ]
        sentences = []
        if crossings:
            same = crossings.frame[crossings.frame["group"] == rows["group"].iloc[0]]
            sentences = list(dict.fromkeys(same["sentence"]))
            if len(sentences) > MOST_SENTENCES:
                rest = len(sentences) - MOST_SENTENCES + 1
                sentences = [*sentences[: MOST_SENTENCES - 1], f"{rest} more series stand in the table."]
        shown = table(
            rows,
            [
                Column("clock", "clock", filtered=True),
                Column("device", "device", filtered=True),
                Column("baseline", "over"),
                *SETTINGS[:2],
                Column("batch_size", "batch", "count", filtered=True),
                Column("ratio", "speed-up", "ratio"),
                Column("low", "low", "ratio"),
                Column("high", "high", "ratio"),
                Column("n", "n", "count"),
                Column("verdict", "verdict", "tag", filtered=True),
                Column("text", "in words", "long"),
            ],
            name=f"speed-ups-table{suffix}",
            caption="Speed-up of the device over the baseline",
        )
        parts.append(
            Part(heading, sentences=sentences[:MOST_SENTENCES], charts=charts, table=shown, disclosed=bool(charts))
        )
    lead = (
        "How many times faster the device trains the same cell than the baseline: steady (blocks of training, timed in"
        " the same cycles) and from cold (process start to the last evaluation, values without a verdict). Hatched"
        " cells are open; a dash has its reason in the table."
    )
    return Section(question, lead=lead, parts=parts, notes=[*exhibit.notes, *crossings.notes])


def throughput(study: Study) -> Section:
    """How does throughput scale?"""
    question = Question("throughput", "How does throughput scale with the batch?", "Throughput")
    exhibit = speed.throughput_by_batch(study.frame, study.blocks)
    if not exhibit:
        return unanswered(question, exhibit)
    parts = []
    for heading, suffix, rows in groups(exhibit.frame):
        several = rows["execution_label"].nunique() > 1
        drawn = _bare_profiles(rows)
        for execution, own in rows[rows["execution_label"].isin(drawn)].groupby("execution_label"):
            stem = (slug("throughput", execution) if several else "throughput") + suffix
            found = [
                speed_charts.throughput(own, stem),
                speed_charts.throughput(own, f"{stem}-evaluation", evaluation=True),
            ]
            title = " · ".join(part for part in (heading, str(execution) if several else "") if part)
            parts.append(Part(title, charts=[chart for chart in found if chart]))
        columns = [
            *SETTINGS,
            Column("execution_label", "execution", filtered=True),
            Column("examples_per_second", "training examples/s", "rate"),
            Column("low", "low", "rate"),
            Column("high", "high", "rate"),
            Column("interval", "interval"),
            Column("eval_examples_per_second", "evaluation examples/s", "rate"),
            Column("peak_share", "share of peak", "share"),
            Column("status", "status", "tag"),
            Column("flags", "flags", "words"),
        ]
        left_out = rows["execution_label"].nunique() - len(drawn)
        shown = table(rows, columns, name=f"throughput-table{suffix}", caption="Examples per second by batch size")
        said = [
            f"The bare profiles are drawn; {plural(left_out, 'other')} with levers of their own stand in the table."
        ]
        parts.append(Part(sentences=said if left_out else [], table=shown))
    lead = (
        "Examples ÷ seconds of the blocks, or of the whole trainings where no blocks were timed."
        " Lines are medians over optimizers and seeds, the bands their whole range; the"
        " dotted line is what a device would do if twice the batch took no longer."
    )
    return Section(question, lead=lead, parts=parts, notes=exhibit.notes)


def levers(study: Study) -> Section:
    """What does each lever buy?"""
    question = Question("levers", "What does each lever buy?", "Speed levers")
    exhibit = lever_tables.lever_effects(study.frame, study.blocks)
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
        charts = []
        several = rows["device"].nunique() > 1
        for (device, profile, kind), own in rows.groupby(["device", "profile", "kind"], sort=False):
            if own["ratio"].notna().any():
                title = f"{titles.get(str(kind), str(kind))} {profile}"
                title = f"{device!s}: {title}" if several else title.capitalize()
                charts.append(speed_charts.levers(own, slug("levers", device, profile, kind) + suffix, title))
        shown = table(
            rows,
            [
                Column("device", "device", filtered=True),
                Column("profile", "profile", filtered=True),
                Column("kind", "kind", filtered=True),
                Column("lever", "lever", "name", filtered=True),
                *SETTINGS[:2],
                Column("batch_size", "batch", "count", filtered=True),
                Column("ratio", "throughput ratio", "ratio"),
                Column("low", "low", "ratio"),
                Column("high", "high", "ratio"),
                Column("n", "n", "count"),
                Column("peak_share", "share of peak", "share"),
                Column("break_even_examples", "pays after, examples", "count"),
                Column("verdict", "verdict", "tag", filtered=True),
                Column("text", "in words", "long"),
            ],
            name=f"levers-table{suffix}",
            caption="Throughput with the lever over the bare profile",
        )
        parts.append(Part(heading, charts=charts[:MOST_PANELS], table=shown, disclosed=bool(charts)))
    lead = (
        "Throughput with the lever set over the bare profile. Levers interact, so both ways are shown: added alone to"
        " plain, and left out of fast, where a value below 1× says what it was worth."
    )
    return Section(question, lead=lead, parts=parts, notes=exhibit.notes)


def _by_target(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """As `groups`, and each target by itself, since times to different targets are no race."""
    for heading, suffix, rows in groups(frame):
        alone = rows["target_accuracy"].nunique(dropna=False) == 1
        for place, (target, own) in enumerate(rows.groupby("target_accuracy", dropna=False, sort=False)):
            if alone:
                yield heading, suffix, own
            else:
                named = "without a target" if missing(target) else f"target {percent(target, 1)}"
                yield " · ".join(filter(None, [heading, named])), f"{suffix}-target-{place + 1}", own


def _interval(row: Any) -> str:
    """What stands under the time: the best accuracy where the target was not reached, else the interval."""
    beside = row.seconds_text.partition(" (")[2].rstrip(")")
    if beside:
        return str(beside)
    kind = "" if missing(row.interval) else str(row.interval)
    return f"{seconds_interval(row.seconds_low, row.seconds_high)} {kind}".strip()


def _reached(row: Any) -> str:
    return "" if missing(row.reached) or missing(row.target_accuracy) else f"{int(row.reached)} of {int(row.seeds)}"


def _bare_profiles(rows: pd.DataFrame) -> list[str]:
    """Profiles without levers of their own; where there are none, the first two."""
    labels = sorted(set(rows["execution_label"]))
    return [label for label in labels if "(" not in label] or labels[:2]
