"""The answer in sentences, and the text one pastes into an issue."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from mnistbench.report.accuracy import worst_drops
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.frame import at_target, targets_in
from mnistbench.report.inventory import banners, completeness, environments, failures
from mnistbench.report.levers import lever_effects
from mnistbench.report.ranking import leaderboard
from mnistbench.report.repeats import counted
from mnistbench.report.speed import crossovers
from mnistbench.report.trials import tuning_note
from mnistbench.report.verdicts import Pair, compare, pairwise
from mnistbench.words import markdown
from mnistbench.words.wording import (
    accuracy_text,
    interval_text,
    more_time,
    percent,
    plural,
    seconds_text,
    times,
)

MOST_SENTENCES = 3
"""Of one kind, for each group; the tables have the rest."""


def verdict_sentences(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> list[str]:
    """What the data say, the most wanted first: who is first at each target, what is ranked nowhere, what the levers
    buy (first of all where there is no target), device speed-ups with their crossover batch, what a large batch costs,
    what is open, and what it would take. Every ratio names its clock, n and interval; the last sentence names machine,
    build, protocol and execution (rule 22).
    """
    frame = counted(frame)
    groups = [group for group in dict.fromkeys(frame["group"]) if group]
    if not groups:
        return ["No cell has run, so there is nothing to say yet."]
    sentences = []
    for group in groups:
        part = frame[frame["group"] == group]
        board = leaderboard(part, blocks).frame
        asked = [itertools.chain(_first(board, part, blocks), _unranked(board)), _levers(part, blocks)]
        if not targets_in(part):
            asked.reverse()
        said = [*itertools.chain(*asked), *_devices(part, blocks), *_batches(part), *_open(part, blocks)]
        if not said:
            continue
        executions = sorted(set(part["execution_label"]))
        levers = ", ".join(executions) if len(executions) <= MOST_SENTENCES else f"in {len(executions)} ways"
        tuning = f" {tuning_note(part)}" if part["optimizer_label"].nunique() > 1 else ""
        sentences += [*said, f"Measured on {group}; execution {levers}.{tuning}"]
    return sentences or ["No cell finished, so there is nothing to say yet."]


def _first(board: pd.DataFrame, frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    if board.empty:
        return
    ranked = board[board["unranked"] == ""]
    for target, rows in ranked.groupby("target_accuracy", dropna=False, sort=False):
        first = rows.iloc[0]
        seeds = int(first["seeds"])
        if isinstance(target, float) and math.isnan(target):
            best = rows.sort_values("test_accuracy", ascending=False).iloc[0]
            got = f"{percent(best['test_accuracy'], 2)} (median of {plural(int(best['seeds']), 'seed')})"
            if pd.isna(best["rank"]):
                yield f"{best['label']} has the highest median accuracy: {got}; not ranked: {best['rank_reason']}."
            else:
                tied = int((rows["rank"] == 1).sum()) - 1
                others = f", {plural(tied, 'other')} not proven worse" if tied > 0 else ""
                yield f"{best['label']} is most accurate{others}: {got}."
            continue
        goal = accuracy_text(float(str(target)))
        if math.isinf(first["seconds_to_target"]):
            best = rows.sort_values("best_test_accuracy", ascending=False).iloc[0]
            reached = int(rows["reached"].sum())
            start = f"Only {plural(reached, 'run')} reached {goal}" if reached else f"No cell reached {goal}"
            yield f"{start}; the best came to {accuracy_text(best['best_test_accuracy'])} ({best['label']})."
            continue
        proof = _proof(first["seconds_low"], first["seconds_high"], str(first["interval"]))
        clock = "for these seeds, at the speed of the blocks" if "block" in first["interval"] else "training clock"
        detail = f"{first['seconds_text']}, {proof} ({clock}, {first['reached']} of {seeds} seeds reached it)"
        tied = int((rows["rank"] == 1).sum()) - 1
        if pd.isna(first["rank"]):
            why = first["rank_reason"]
            yield f"{first['label']} has the shortest median time to {goal}: {detail}; not ranked: {why}."
            continue
        at_goal = at_target(frame, float(str(target)))
        pairs = _pairs_of(str(first["settings"]), compare(at_goal, "seconds_to_target", blocks)[str(first["group"])])
        if tied > 0:
            yield f"{first['label']} is first to {goal} by median, {plural(tied, 'other')} not proven slower: {detail}."
            yield from _nearest_open(pairs)
        else:
            yield f"{first['label']} is first to {goal}: {detail}{_ahead(pairs)}."


def _pairs_of(settings: str, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs whose first setting is this one, which is the best of them, so that it always is the first."""
    return [pair for pair in pairs if pair.a.settings == settings]


def _ahead(pairs: Sequence[Pair]) -> str:
    """How far the first is ahead of the next one, which is the first that it is paired with."""
    known = [pair for pair in pairs if pair.verdict and math.isfinite(pair.ratio)]
    if not known:
        return ""
    ends = interval_text(known[0].low, known[0].high)
    return f"; {times(known[0].ratio)} ahead of {known[0].b.label} (interval {ends}×, n = {known[0].n} cycles)"


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


def _proof(low: float, high: float, kind: str) -> str:
    if math.isinf(high) and math.isfinite(low):
        return f"{kind}: {seconds_text(low)} to {seconds_text(high)}"
    ends = interval_text(low, high)
    if kind == "one run" or not ends:
        return kind
    return f"{kind.replace('95 % of', '95 % interval of')}: {ends} s"


def _levers(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    found = lever_effects(frame, blocks)
    if not found:
        return
    rows = found.frame[found.frame["ratio"].notna()]
    profiles = rows[rows["kind"] == "profile"].sort_values("ratio", ascending=False)
    for row in profiles.head(MOST_SENTENCES).to_dict("records"):
        ends = interval_text(row["low"], row["high"])
        proof = f", interval {ends}×" if ends else ""
        yield (
            f"{row['series']}: {row['lever']} makes {times(row['ratio'])} the examples/s of {row['profile']} "
            f"({'blocks of training' if row['verdict'] else 'training clock'}, n = {row['n']}{proof}): {row['text']}."
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
    parts = [
        f"# {markdown.escape(name)}",
        "\n".join(f"- {markdown.escape(text)}" for text in verdict_sentences(frame, blocks)),
        markdown.escape(completeness(frame, asked).sentence) + ".",
        "\n".join(f"> **{markdown.escape(text)}**" for text in banners(frame)),
        *_leaderboard_text(frame, blocks),
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
                    _proof(row["seconds_low"], row["seconds_high"], row["interval"]),
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
