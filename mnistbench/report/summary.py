"""The answer in sentences, and the text one pastes into an issue."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from mnistbench.report.accuracy import worst_drops
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.frame import at_target
from mnistbench.report.inventory import banners, completeness, environments, failures
from mnistbench.report.labels import shared
from mnistbench.report.levers import lever_effects
from mnistbench.report.ranking import leaderboard
from mnistbench.report.samples import for_show
from mnistbench.report.speed import crossovers
from mnistbench.report.verdicts import Pair, compare, pairwise
from mnistbench.words import markdown
from mnistbench.words.wording import (
    accuracy_text,
    interval_text,
    more_time,
    percent,
    plural,
    seconds_interval,
    times,
)

MOST_SENTENCES = 3
"""Of one kind, for each group; the tables have the rest."""


def verdict_sentences(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> list[str]:
    """What the data say, the most wanted first: what another device and the levers buy, where the grid varies them, who
    is first at each target, what is ranked nowhere, what a large batch costs, what is open, and what it would take.
    Every ratio names its clock, n and interval; the last sentences name machine, build, protocol and execution (rule
    22), and what all settings share.
    """
    frame = for_show(frame, blocks)
    groups = [group for group in dict.fromkeys(frame["group"]) if group]
    if not groups:
        return ["No cell has run, so there is nothing to say yet."]
    sentences = []
    for group in groups:
        part = frame[frame["group"] == group]
        board = leaderboard(part, blocks).frame
        said = [
            *_devices(part, blocks),
            *_levers(part, blocks),
            *_first(board, part, blocks),
            *_unranked(board),
            *_batches(part),
            *_open(part, blocks),
        ]
        if said:
            sentences += [*said, f"Measured on {group}.", *shared(part)]
    return sentences or ["No cell finished, so there is nothing to say yet."]


def _first(board: pd.DataFrame, frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
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


def _most_accurate(rows: pd.DataFrame) -> str:
    best = rows.sort_values("test_accuracy", ascending=False).iloc[0]
    got = f"{percent(best['test_accuracy'], 2)} (median of {plural(int(best['seeds']), 'seed')})"
    if pd.isna(best["rank"]):
        return f"{best['label']} has the highest median accuracy: {got}; not ranked: {best['rank_reason']}."
    return f"{best['label']} is most accurate ({_rank(best, rows)}): {got}{_others(rows, 'worse')}."


def _nobody_there(rows: pd.DataFrame, goal: str) -> str:
    best = rows.sort_values("best_test_accuracy", ascending=False).iloc[0]
    reached = int(rows["reached"].sum())
    start = f"Only {plural(reached, 'run')} reached {goal}" if reached else f"No cell reached {goal}"
    return f"{start}; the best came to {accuracy_text(best['best_test_accuracy'])} ({best['label']})."


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
    return f", {times(known[0].ratio)} {ends} ahead of {known[0].b.label} (n = {known[0].n} cycles)"


def _nearest_open(pairs: Sequence[Pair]) -> Iterator[str]:
    """Between what and what the first open difference lies, and what it would take."""
    pair = next((pair for pair in pairs if pair.verdict == "open"), None)
    if pair is not None and math.isfinite(pair.ratio):
        takes = f"; to tell takes {more_time(pair.more_seconds)}" if math.isfinite(pair.more_seconds) else ""
        yield f"{pair.a.label} against {pair.b.label} is {pair.text}{takes}."


def _unranked(board: pd.DataFrame) -> Iterator[str]:
    if board.empty:
        return
    nowhere = board[board["unranked"] != ""].drop_duplicates("settings").to_dict("records")
    if nowhere:
        named = "; ".join(f"{row['label']} ({row['unranked']})" for row in nowhere[:MOST_SENTENCES])
        more = f"; {len(nowhere) - MOST_SENTENCES} more" if len(nowhere) > MOST_SENTENCES else ""
        yield f"Shown and ranked nowhere, in accuracy neither: {named}{more}."


def _levers(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
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


def _devices(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    found = crossovers(frame, blocks)
    if not found:
        return
    for _, rows in found.frame.groupby("clock", sort=False):
        ordered = rows.sort_values("largest_ratio", ascending=False)
        yield from ordered["sentence"].head(MOST_SENTENCES)
        if len(rows) > MOST_SENTENCES:
            yield f"{plural(len(rows) - MOST_SENTENCES, 'more device pair')} in the table."


def _batches(frame: pd.DataFrame) -> Iterator[str]:
    drops = worst_drops(frame, limit=1)
    for row in drops.frame.to_dict("records"):
        yield (
            f"The largest loss to a batch size: {row['series']} at batch {row['batch_size']} is "
            f"{-100 * row['drop']:.1f} points below batch {row['best_batch']} (medians of n = {row['n']})."
        )


def _open(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    speeds = pairwise(frame, "examples_per_second", blocks)
    if not speeds:
        return
    judged = speeds.frame[speeds.frame["verdict"] != ""]
    if judged.empty:
        reasons = speeds.frame["reason"].value_counts()
        yield f"Speeds are values without a verdict: {reasons.index[0]}."
        return
    still_open = judged[judged["verdict"] == "open"]
    takes = still_open["more_seconds"].dropna()
    more = f"; to tell all of them takes {more_time(float(takes.max()))}" if len(takes) else ""
    yield f"{len(still_open)} of {plural(len(judged), 'difference')} in throughput open{more}."


def summary_markdown(
    frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS, *, name: str, asked: int | None = None
) -> str:
    """The text of `summary.md`: sentences, completeness, banners, leaderboard, failures, environment.

    Names from records are escaped for Markdown.
    """
    shown = for_show(frame, blocks)
    parts = [
        f"# {markdown.escape(name)}",
        "\n".join(f"- {markdown.escape(text)}" for text in verdict_sentences(frame, blocks)),
        markdown.escape(completeness(frame, asked).sentence) + ".",
        "\n".join(f"> **{markdown.escape(text)}**" for text in banners(frame)),
        *_leaderboard_text(shown, blocks),
        *_failures_text(frame),
        *_environments_text(frame),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _leaderboard_text(frame: pd.DataFrame, blocks: pd.DataFrame, limit: int = 10) -> Iterator[str]:
    board = leaderboard(frame, blocks)
    if not board:
        return
    yield "## First at the target" if board.frame["target_accuracy"].notna().any() else "## Most accurate"
    for (group, target), rows in board.frame.groupby(["group", "target_accuracy"], dropna=False, sort=False):
        several = board.frame["target_accuracy"].nunique() > 1
        yield markdown.escape(f"{group} · target {accuracy_text(float(str(target)))}" if several else str(group))
        yield markdown.table(
            ["rank", "cell", "time to target", "interval", "reached", "test accuracy", "examples/s"],
            [
                [
                    row["rank_text"] or "–",
                    f"{row['label']} ({row['unranked']})" if row["unranked"] else row["label"],
                    row["seconds_text"],
                    f"{seconds_interval(row['seconds_low'], row['seconds_high'])} {row['interval']}".strip(),
                    "" if pd.isna(row["reached"]) else f"{row['reached']:.0f}/{row['seeds']}",
                    _accuracy(row),
                    "" if pd.isna(row["examples_per_second"]) else f"{row['examples_per_second']:,.0f}",
                ]
                for row in rows.head(limit).to_dict("records")
            ],
        )
        if len(rows) > limit:
            yield f"{len(rows) - limit} more in results.csv."
    yield from (markdown.escape(note) for note in board.notes)


def _accuracy(row: dict[Any, Any]) -> str:
    """The median accuracy, with the seeds that diverged and count in it."""
    if pd.isna(row["test_accuracy"]):
        return ""
    lost = f" ({row['diverged']} of {row['seeds']} seeds diverged)" if row["diverged"] else ""
    return percent(row["test_accuracy"], 2) + lost


def _failures_text(frame: pd.DataFrame, limit: int = 10) -> Iterator[str]:
    failed = failures(frame)
    if not failed:
        return
    yield "## What did not finish"
    rows = failed.frame.head(limit).to_dict("records")
    yield markdown.table(
        ["cell", "seed", "status", "reason"],
        [[row["label"], row["seed"], row["status"], row["reason"]] for row in rows],
    )
    if len(failed.frame) > limit:
        yield f"{len(failed.frame) - limit} more in results.csv."


def _environments_text(frame: pd.DataFrame) -> Iterator[str]:
    found = environments(frame)
    if not found:
        return
    yield "## Where it ran"
    columns = ["machine", "device", "device_name", "torch", "python", "mnistbench", "git_commit", "dataset", "cells"]
    shown = found.frame[columns].astype(object).where(found.frame[columns].notna(), "")
    yield markdown.table(columns, shown.to_numpy().tolist())
