"""Which is first at each target (rules 9, 11, 17, 18)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.report import charts, statistics
from mnistbench.report.blocks import NO_BLOCKS, NOT_TRAINED, CycleTable, cycle_table
from mnistbench.report.estimator import ENOUGH_CYCLES, ranks
from mnistbench.report.exhibit import Exhibit, highest, lowest, nothing
from mnistbench.report.frame import at_target, targets_in
from mnistbench.report.labels import labels
from mnistbench.report.palette import FAINT, INK, series_colour
from mnistbench.report.repeats import Repeats, measured, repeats
from mnistbench.report.samples import Metric, Sample, blocks_of, samples, settled, steps_per_epoch, unranked
from mnistbench.report.sections.section import MOST_SENTENCES, Answer, Part, Question, Section, Study, groups
from mnistbench.report.statistics import RANK_TEST_SEEDS, Floats, Interval
from mnistbench.report.tables import SETTING, Column, shared, table
from mnistbench.report.verdicts import MOST_COMPARED, Pair, compare
from mnistbench.results.records import RESULTS
from mnistbench.words import markdown
from mnistbench.words.wording import (
    MISSING,
    accuracy_text,
    interval_text,
    missing,
    more_time,
    percent,
    plural,
    rank_text,
    rate,
    seconds_interval,
    seconds_text,
    times,
)

QUESTION = Question("first", "Which is first at the target?", "First at the target")
WITHOUT_TARGET = Question("first", "Which is most accurate?", "Most accurate")
BOARD = [
    Column("order", "#", "count"),
    Column("rank_text", "rank", order="rank"),
    Column("time_text", "time to target", order="seconds_to_target", below="interval_text"),
    *shared(SETTING),
    Column("reached_text", "reached", order="reached", below="reached_interval"),
    Column("epochs_to_target", "epochs", "whole", hidden=True),
    Column("clock_seconds_to_target", "own clock", "reachable", hidden=True),
    Column("cold_seconds_to_target", "from cold", "reachable", hidden=True),
    *shared("test_accuracy"),
    Column("examples_per_second", "examples/s", "rate"),
    *shared("diverged unranked"),
    Column("best_test_accuracy", "best of any seed", "percent", hidden=True),
    Column("equivalence", "equivalence", "tag", hidden=True),
    *shared("flags"),
]
MOST_BARS = 15
MOST_ROWS = 10
"""Of a target's leaderboard in `summary.md`."""
_SETTINGS = ["group", "settings", *SETTING.split(), "target_accuracy"]


def _answer(study: Study) -> Answer:
    """Which is first at the target?"""
    question = QUESTION if targets_in(study.frame) else WITHOUT_TARGET
    exhibit = leaderboard(study.frame, study.blocks)
    if not exhibit:
        return Answer.without(question, exhibit)
    parts = []
    for heading, suffix, rows in by_target(exhibit.frame):
        board = rows.sort_values("order")
        columns = BOARD[1:] if board["rank"].notna().all() else BOARD
        texts = [texts_of(row) for row in board.to_dict("records")]
        board = board.assign(
            time_text=[text["to target"] for text in texts],
            interval_text=[text["interval"] for text in texts],
            reached_text=[_reached_text(row) for row in board.to_dict("records")],
            diverged=board["diverged"].where(board["diverged"] > 0),
        )
        chart = first_at_target(board, f"time-to-target{suffix}")
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
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes)


def by_target(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """As `groups`, and each target by itself, since times to different targets are no race."""
    for heading, suffix, rows in groups(frame):
        alone = rows["target_accuracy"].nunique(dropna=False) == 1
        for place, (target, own) in enumerate(rows.groupby("target_accuracy", dropna=False, sort=False)):
            if alone:
                yield heading, suffix, own
            else:
                named = "without a target" if missing(target) else f"target {accuracy_text(float(str(target)))}"
                yield " · ".join(filter(None, [heading, named])), f"{suffix}-target-{place + 1}", own


def leaderboard(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """Settings of each group by median time to target, each target by itself; without any target, by test accuracy
    (then throughput). Settings that are ranked nowhere come last.

    A time to target is the steps to the first evaluation that passes it, at the seconds a step of the blocks; where no
    blocks were taken, that of the runs' own clock.
    """
    frame = settled(frame, blocks)
    rows = measured(frame, {*RESULTS, NOT_TRAINED})
    if rows.empty:
        return nothing("No cell finished, so there is nothing to rank.")
    targets, names = targets_in(rows), labels(frame)
    boards = [_board(at_target(frame, target), blocks, "seconds_to_target", names) for target in targets]
    table = pd.concat(boards or [_board(frame, blocks, "test_accuracy", names)])
    table = table.sort_values(["group", "target_accuracy", "order"], kind="stable", ignore_index=True)
    notes = [] if targets else ["The grid names no target accuracy: ordered by test accuracy, then by throughput."]
    if table["rank"].isna().all():
        needed = f"cycles of blocks ({ENOUGH_CYCLES} at least)" if targets else f"{RANK_TEST_SEEDS} seeds"
        notes.append(f"Ordered by median; a rank needs {needed}.")
    elif targets:
        notes.append(
            "Times and ranks are for the seeds that ran: their steps to the target, at the speed of the blocks."
        )
    return Exhibit(table, notes=tuple(notes))


def _board(frame: pd.DataFrame, blocks: pd.DataFrame, metric: Metric, names: dict[str, str]) -> pd.DataFrame:
    """The leaderboard at the frame's one target, or of test accuracy."""
    rows = measured(frame, {*RESULTS, NOT_TRAINED})
    if metric != "test_accuracy":
        rows = rows[rows["reached"].notna()]
    ranked = _ranks(frame, blocks, metric)
    taken = {group: blocks_of(blocks, frame, group) for group in rows["group"].unique()}
    timed = {group: (cycle_table(own), cycle_table(own, unit="steps")) for group, own in taken.items()}
    unknown = {"rank": None, "rank_text": "", "rank_reason": "no run finished"}
    entries = [
        {
            **_entry(runs, *timed[runs.group]),
            "label": names[runs.settings],
            **ranked.get((runs.group, runs.settings), unknown),
        }
        for runs in repeats(rows)
    ]
    table = pd.DataFrame(entries).astype({"rank": "Int64"})
    table["is_last"] = table["unranked"] != ""
    order = ["group", "is_last", "seconds_to_target", "test_accuracy", "examples_per_second"]
    table = table.sort_values(order, ascending=[True, True, True, False, False], kind="stable", na_position="last")
    return table.assign(order=table.groupby("group").cumcount() + 1)


def _entry(runs: Repeats, examples: CycleTable, steps: CycleTable) -> dict[str, Any]:
    """A row, but for its name and rank: medians over the seeds, infinite where most did not reach the target."""
    trained = runs.first("status") != NOT_TRAINED
    targeted = trained and not math.isnan(runs.first("target_accuracy"))
    values = runs.floats("seconds_to_target", missing=math.inf).tolist() if targeted else []
    shown = own_clock = statistics.summarize(values)
    spent = runs.floats("train_seconds")
    if targeted and runs.settings in steps.settings:
        speed = steps.speed(runs.settings)
        values, shown = _at_speed_of_blocks(runs, speed)
        spent = runs.floats("steps") / speed.value
    best = max(runs.known("best_test_accuracy"), default=math.nan)
    unreached = math.inf if targeted else math.nan  # such seeds are beyond the last evaluation (rule 11)
    reached = int((runs.floats("reached") == 1).sum()) if targeted else None
    return {
        **{name: runs.first(name) for name in _SETTINGS},
        "seeds": len(runs) if trained else 0,
        "diverged": int((runs["status"] == "diverged").sum()),
        "unranked": unranked(runs),
        "reached": reached,
        "reached_interval": "" if reached is None or len(runs) < 2 else _share_text(reached, len(runs)),
        "seconds_to_target": shown.value,
        "seconds_low": shown.low,
        "seconds_high": shown.high,
        "interval": shown.kind if targeted else "",
        "seconds_text": _seconds_text(runs, shown.value, best, spent) if targeted else "" if trained else NOT_TRAINED,
        "seconds_values": values,  # the dots: one a seed
        "clock_seconds_to_target": own_clock.value if targeted else math.nan,
        "cold_seconds_to_target": runs.median("cold_seconds_to_target", unreached),
        "epochs_to_target": runs.median("epochs_to_target", unreached),
        "test_accuracy": runs.median("test_accuracy"),
        "best_test_accuracy": best,
        "examples_per_second": examples.speed(runs.settings).value
        if runs.settings in examples.settings
        else runs.median("examples_per_second"),
        "flags": runs.flags(timed=runs.settings in examples.settings),
        "equivalence": "; ".join(sorted(runs.texts("equivalence", missing="not checked"))),
    }


def _share_text(reached: int, runs: int) -> str:
    low, high = statistics.share_interval(reached, runs)
    return f"[{percent(low, 0)}, {percent(high, 0)}]"


def _at_speed_of_blocks(runs: Repeats, speed: Interval) -> tuple[list[float], Interval]:
    """The seeds' steps to the target at so many steps a second, and their median with the interval of the speed."""
    steps = steps_per_epoch(runs) * runs.floats("epochs_to_target", math.inf)
    values = (steps / speed.value).tolist()
    middle = float(np.median(values))
    low, high = (middle * speed.value / end if end > 0 else math.nan for end in (speed.high, speed.low))
    return values, Interval(middle, low, high, len(values), speed.kind)


def _seconds_text(runs: Repeats, median: float, best: float, spent: Floats) -> str:
    """The time in words; beyond what the seeds that did not reach the target have spent, by the clock of the others."""
    if math.isfinite(median):
        return seconds_text(median)
    reached = runs.floats("reached") == 1
    if reached.any():
        known = spent[~reached & ~np.isnan(spent)]
        return f"> {seconds_text(float(known.min()))}" if len(known) else "not reached by most seeds"
    return f"not reached (best {percent(best, 2)})" if math.isfinite(best) else "not reached"


def _ranks(frame: pd.DataFrame, blocks: pd.DataFrame, metric: Metric) -> dict[tuple[str, str], dict[str, Any]]:
    """Rank, its range, and the reason where there is none, by (group, settings)."""
    pairs_by_group = compare(frame, metric, blocks)
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for group, group_samples in samples(frame, metric, blocks).items():
        pairs = pairs_by_group[group]
        judged = [pair for pair in pairs if pair.verdict]
        ranked = list(dict.fromkeys(side.settings for pair in judged for side in (pair.a, pair.b)))
        if not ranked:  # one that has no rival which may be ranked is first
            timed = blocks_of(blocks, frame, group).groupby("settings")["seconds"].count()
            able = [sample.settings for sample in group_samples if _may_be_ranked(sample, metric, timed)]
            ranked = able if len(able) == 1 else []
        nobody = all(sample.bounded for sample in group_samples if sample.settings in ranked)
        if nobody:  # a race that nobody finished has no places
            ranked, judged = [], []
        place = {settings: number for number, settings in enumerate(ranked)}
        as_speeds = {"better": "faster", "worse": "slower"}
        verdicts = np.array([as_speeds.get(pair.verdict, pair.verdict) for pair in judged], dtype=str)
        numbers = np.array([(place[pair.a.settings], place[pair.b.settings]) for pair in judged], np.int64)
        places = ranks(verdicts, numbers.reshape(-1, 2), len(ranked))
        for sample in group_samples:
            low, high = places[place[sample.settings]] if sample.settings in place else (None, None)
            told[group, sample.settings] = {
                "rank": low,
                "rank_text": "" if low is None or high is None else rank_text(low, high),
                "rank_reason": ""
                if low is not None
                else _reason(sample.settings, pairs) or "nobody reached the target",
            }
    return told


def _may_be_ranked(sample: Sample, metric: Metric, timed: pd.Series[int]) -> bool:
    if metric == "test_accuracy":
        return not sample.unranked and len(sample.values) >= RANK_TEST_SEEDS
    return not sample.obstacle and int(timed.get(sample.settings, 0)) >= ENOUGH_CYCLES


def _reason(settings: str, pairs: Sequence[Pair]) -> str:
    """Why no pair of a setting has a verdict: a reason of its own, if it has one, else what most of its pairs say."""
    own = [pair for pair in pairs if settings in (pair.a.settings, pair.b.settings)]
    side = next((pair.a if pair.a.settings == settings else pair.b for pair in own), None)
    if side is not None and (side.unranked or side.obstacle):
        return side.unranked or side.obstacle
    reasons = [pair.reason for pair in own if not (pair.a.obstacle or pair.b.obstacle)] or [pair.reason for pair in own]
    alone = f"only the {MOST_COMPARED} best are compared" if len(pairs) else "nothing to compare it with"
    return max(reasons, key=reasons.count) if reasons else alone


def first_at_target(board: pd.DataFrame, name: str) -> charts.Chart | None:
    """The best settings by median time to target: every seed a dot, the median a bar, the interval a line."""
    top = board[np.isfinite(board["seconds_to_target"].astype(float))].sort_values("order").head(MOST_BARS)
    if top.empty:
        return None
    top = top.assign(place=range(len(top)))
    dots = top[["place", "seconds_values"]].explode("seconds_values").astype(float)
    dots = dots[np.isfinite(dots["seconds_values"])]
    ranged = top[np.isfinite(top["seconds_low"].astype(float)) & np.isfinite(top["seconds_high"].astype(float))]
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.75 + 0.33 * len(top))
        axes.hlines(ranged["place"], ranged["seconds_low"], ranged["seconds_high"], color=FAINT.light, linewidth=5)
        ends = top["place"] - 0.28, top["place"] + 0.28
        axes.vlines(top["seconds_to_target"], *ends, color=INK.light, linewidth=2)
        axes.scatter(dots["seconds_values"], dots["place"], 28, series_colour(0), **charts.DOT)
        known = [dots["seconds_values"], top["seconds_to_target"], top["seconds_low"].dropna()]
        limits = pd.concat(known).astype(float)
        charts.log_axis(axes, "x", limits.min(), limits.max(), lambda value: f"{value:g}", most=5)
        charts.row_labels(axes, [charts.two_lines(label) for label in top["label"]])
        axes.set(xlabel="training seconds to the target (log)")
    far = [lowest(top, "seconds_to_target"), highest(top, "seconds_to_target")][: len(top)]
    told = " to ".join(f"{seconds_text(end.seconds_to_target)} ({end.label})" for end in far)
    alt = (
        f"Training time to the target of {plural(len(top), 'setting')}{f' of {len(board)}' if len(board) > 1 else ''}:"
        f" {'from ' if len(top) > 1 else ''}{told}. Dots are seeds, the bar their median, the grey line the interval."
    )
    return charts.Chart(name, "Time to the target", alt, figure)


def _sentences(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    board = leaderboard(frame, blocks).frame
    if board.empty:
        return
    ranked = board[board["unranked"] == ""]
    for target, rows in ranked.groupby("target_accuracy", dropna=False, sort=False):
        if isinstance(target, float) and math.isnan(target):
            yield _most_accurate(rows)
        elif math.isinf(rows["seconds_to_target"].iloc[0]):
            yield _nobody_there(rows, accuracy_text(float(str(target))))
        else:
            yield from _first_at(float(str(target)), rows, frame, blocks)
    nowhere = board[board["unranked"] != ""].drop_duplicates("settings").to_dict("records")
    if nowhere:
        named = "; ".join(f"{row['label']} ({row['unranked']})" for row in nowhere[:MOST_SENTENCES])
        more = f"; {len(nowhere) - MOST_SENTENCES} more" if len(nowhere) > MOST_SENTENCES else ""
        yield f"Shown and ranked nowhere, in accuracy neither: {named}{more}."


def _most_accurate(rows: pd.DataFrame) -> str:
    best = rows.sort_values("test_accuracy", ascending=False).iloc[0]
    got = f"{percent(best['test_accuracy'], 2)} (median of {plural(int(best['seeds']), 'seed')})"
    if pd.isna(best["rank"]):
        alike = int((rows["test_accuracy"] == best["test_accuracy"]).sum()) - 1
        others = f" (so {'has' if alike == 1 else 'have'} {plural(alike, 'other')})" if alike else ""
        return f"{best['label']} has the highest median accuracy{others}: {got}; not ranked: {best['rank_reason']}."
    return f"{best['label']} is most accurate ({_rank(best, rows)}): {got}{_others(rows, 'worse')}."


def _nobody_there(rows: pd.DataFrame, goal: str) -> str:
    best = rows.sort_values("best_test_accuracy", ascending=False).iloc[0]
    reached = int(rows["reached"].sum())
    start = f"Only {plural(reached, 'run')} reached {goal}" if reached else f"No cell reached {goal}"
    return f"{start}; the best came to {percent(best['best_test_accuracy'], 2)} ({best['label']})."


def _first_at(target: float, rows: pd.DataFrame, frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    """The answer: who is first, with rank and interval, and by how much."""
    first, goal = rows.iloc[0], accuracy_text(target)
    took = f"{first['seconds_text']} {seconds_interval(first['seconds_low'], first['seconds_high'])}".rstrip()
    clock = "these seeds at the speed of the blocks" if "block" in first["interval"] else "training clock"
    proof = f"({first['interval']}, {clock}, {first['reached']} of {plural(int(first['seeds']), 'seed')} reached it)"
    if pd.isna(first["rank"]):
        why = first["rank_reason"]
        yield f"{first['label']} has the shortest median time to {goal}: {took} {proof}; not ranked: {why}."
        return
    pairs = compare(at_target(frame, target), "seconds_to_target", blocks)[str(first["group"])]
    own = [pair for pair in pairs if pair.a.settings == first["settings"]]  # it is the best, so always the first
    alone = int((rows["rank"] == 1).sum()) == 1
    ahead = _ahead(own) if alone else _others(rows, "slower")
    yield f"{first['label']} is first to {goal} ({_rank(first, rows)}): {took}{ahead} {proof}."
    if not alone:
        yield from _nearest_open(own)


def _rank(first: pd.Series[Any], rows: pd.DataFrame) -> str:
    return f"rank {first['rank_text']} of {rows['rank'].notna().sum()}"


def _others(rows: pd.DataFrame, worse: str) -> str:
    tied = int((rows["rank"] == 1).sum()) - 1
    return f", {plural(tied, 'other')} not proven {worse}" if tied > 0 else ""


def _ahead(pairs: Sequence[Pair]) -> str:
    """How far the first is ahead of the next one, which is the first that it is paired with."""
    known = [pair for pair in pairs if pair.verdict and math.isfinite(pair.ratio)]
    if not known:
        return ""
    ends = interval_text(known[0].low, known[0].high)
    return f", {times(known[0].ratio)} {ends} ahead of {known[0].b.label} in {known[0].n} cycles"


def _nearest_open(pairs: Sequence[Pair]) -> Iterator[str]:
    """Between what and what the first open difference lies, and what it would take."""
    pair = next((pair for pair in pairs if pair.verdict == "open"), None)
    if pair is not None and math.isfinite(pair.ratio):
        known = math.isfinite(pair.more_seconds)
        takes = f"; to tell takes {more_time(pair.more_seconds, pair.cycles)}" if known else ""
        yield f"{pair.a.label} against {pair.b.label} is {pair.text}{takes}."


def texts_of(row: Mapping[Any, Any]) -> dict[str, str]:
    """A row of the leaderboard in words, by the headings of a terminal and of `summary.md`.

    Beside the time stands its interval, or the best accuracy where the target was not reached.
    """
    time, _, best = row["seconds_text"].partition(" (")
    marks = [
        (f"ranked nowhere: {row['unranked']}", row["unranked"]),
        (f"{row['diverged']} of {row['seeds']} seeds diverged", row["diverged"]),
        (row["flags"], row["flags"]),
    ]
    said = "; ".join(text for text, is_so in marks if is_so)
    return {
        "rank": row["rank_text"] or MISSING,
        "trained": f"{row['label']} ({said})" if said else row["label"],
        "to target": time,
        "interval": best.rstrip(")")
        or f"{seconds_interval(row['seconds_low'], row['seconds_high'])} {row['interval']}".strip(),
        "reached": f"{_reached_text(row)} {row['reached_interval']}".strip(),
        "accuracy": percent(row["test_accuracy"], 2),
        "examples/s": rate(row["examples_per_second"]),
        "seeds": str(row["seeds"]),
    }


def _reached_text(row: Mapping[Any, Any]) -> str:
    return "" if missing(row["reached"]) else f"{row['reached']:.0f} of {row['seeds']}"


def _text(study: Study) -> Iterator[str]:
    board = leaderboard(study.frame, study.blocks)
    if not board:
        return
    yield f"## {QUESTION.short if targets_in(study.frame) else WITHOUT_TARGET.short}"
    for heading, _, rows in by_target(board.frame):
        texts = [texts_of(row) for row in rows.head(MOST_ROWS).to_dict("records")]
        yield markdown.escape(heading)
        yield markdown.table(list(texts[0]), [list(row.values()) for row in texts])
        if len(rows) > MOST_ROWS:
            yield f"{len(rows) - MOST_ROWS} more in results.csv."
    yield from (markdown.escape(note) for note in board.notes)


SECTION = Section(_answer, _sentences, _text)
