"""Which optimizer is best, and after how few trials of its learning rate (rules 10 and 18)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.grid.product import TRIAL, TUNED
from mnistbench.grid.tune import Trial, best
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.labels import labels, short_names
from mnistbench.report.repeats import counted, measured, one_per_seed, repeats
from mnistbench.report.samples import RANK_TEST_SEEDS, accuracy_of, settle_outcomes
from mnistbench.report.sections.section import Answer, Part, Question, Section, Study, unanswered
from mnistbench.report.tables import Column, Table, of_kind, shared, table
from mnistbench.report.verdicts import compare
from mnistbench.results.records import RESULTS
from mnistbench.words.wording import percent, plural

FEW = 3
"""The budget between a single trial and all of them."""


def _answer(study: Study) -> Answer:
    """Which optimizer is best?"""
    question = Question("optimizers", "Which optimizer is best?", "Optimizers")
    exhibit, tried = optimizer_ranking(study.frame), best_after_trials(study.runs)
    parts = []
    if exhibit:
        parts.append(Part(table=_ranking(exhibit.frame), disclosed=False))
    if tried:
        parts.append(Part("Best after few trials", sentences=tried.notes, table=_trials(tried.frame)))
    if not parts:
        return unanswered(question, exhibit)
    lead = "Test accuracy within the same network, batch size and device."
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes)


def _ranking(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        [
            *shared("architecture_label batch_size device execution_label"),
            Column("rank", "rank", "count"),
            *shared("optimizer_label"),
            Column("lr", "learning rate", "whole"),
            *shared("schedule_label tuning test_accuracy"),
            *of_kind("percent", "low high"),
            *shared("interval"),
            Column("n", "seeds", "count"),
            *shared("diverged unranked"),
        ],
        name="optimizers-table",
        caption="Optimizers by test accuracy, within the same network, batch and device",
    )


def _trials(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        [
            *shared("architecture_label batch_size"),
            Column("trials", "trials", "count", filtered=True),
            *shared("diverged optimizer_label schedule_label"),
            Column("lr", "rate picked", "whole"),
            Column("validation_accuracy", "validation accuracy", "percent"),
        ],
        name="after-trials",
        caption="The best learning rate of each optimizer after so many trials, by validation accuracy",
    )


def optimizer_ranking(frame: pd.DataFrame) -> Exhibit:
    """Optimizers by test accuracy within the same architecture, batch size and device (a contest).

    A rank is one more than the number proven better, NA below 7 seeds or where some are tuned and others are not.
    """
    frame = settle_outcomes(counted(frame))
    rows = measured(frame, ["finished", "diverged"])
    rivals = rows.groupby(["group", "any_optimizer"])["settings"].transform("nunique")
    rows = rows[rivals > 1]
    if rows.empty:
        return nothing("No two optimizers ran on the same architecture, batch size and device.")
    contests = labels(frame, "any_optimizer", without=("optimizer", "schedule"))
    beaten = _beaten(frame, rows)
    about = [
        "architecture_label", "batch_size", "device", "execution_label", "optimizer_label", "lr", "schedule_label",
        "tuning",
    ]  # fmt: skip
    entries = [
        {
            "group": runs.group,
            "contest": contests[runs.first("any_optimizer")],
            **{name: runs.first(name) for name in about},
            "settings": runs.settings,
            "rank": beaten.get((runs.group, runs.settings), 0) + 1,
            **accuracy_of(runs),
            "seconds_to_target": float(np.median(runs.floats("seconds_to_target", math.inf))),
            "reached": int((runs.floats("reached") == 1).sum()),
        }
        for runs in repeats(rows)
    ]
    table = pd.DataFrame(entries)
    table["_last"] = table["unranked"] != ""
    table = table.sort_values(
        ["group", "contest", "_last", "test_accuracy"], ascending=[True, True, True, False], ignore_index=True
    )
    keys = table.groupby(["group", "contest"])
    ranked = table[~table["_last"]].groupby(["group", "contest"])
    few = ranked["n"].transform("min") < RANK_TEST_SEEDS
    unlike = ranked["tuning"].transform("nunique") > 1
    table["rank"] = table["rank"].astype("Int64").mask((few | unlike).reindex(table.index, fill_value=True))
    table["order"] = keys.cumcount() + 1
    notes = []
    if table["rank"].isna().any():
        notes.append(f"A rank needs {RANK_TEST_SEEDS} seeds each, and all tuned alike; else ordered by median.")
    return Exhibit(table.drop(columns="_last"), notes=tuple(notes))


def _beaten(frame: pd.DataFrame, rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    """How many rivals are proven more accurate, by (group, settings); Bonferroni over all contests."""
    counts: dict[tuple[str, str], int] = {}
    for group, part in rows.drop_duplicates(["group", "settings"]).groupby("group"):
        chosen: list[tuple[str, str]] = []
        for names in part.groupby("any_optimizer")["settings"].agg(list):
            chosen += itertools.combinations(names, 2)
        pairs = compare(frame[frame["group"] == group], "test_accuracy", NO_BLOCKS, chosen).get(str(group), [])
        for pair in pairs:
            loser = {"better": pair.b, "worse": pair.a}.get(pair.verdict)
            if loser is not None:
                key = (str(group), loser.settings)
                counts[key] = counts.get(key, 0) + 1
    return counts


def is_tuned(frame: pd.DataFrame) -> bool:
    """Whether learning rates were picked for some of the runs."""
    return bool(frame["tuning"].str.startswith(TUNED).any())


def best_after_trials(frame: pd.DataFrame) -> Exhibit:
    """Which optimizer is best after 1, 3 and all trials, by the validation accuracy of the best rate so far.

    The mean over the trial seeds counts, and a training that diverged as 0. It is no verdict, see the notes.
    """
    rows = one_per_seed(frame[(frame["kind"] == "trial") & (frame["group"] != "") & frame["outdated"].isna()])
    table = pd.DataFrame(list(_budgets(rows)))
    if table.empty:
        return nothing("No learning rates were tried.")
    table["contest"] = table["any_optimizer"].map(labels(rows, "any_optimizer", without=("optimizer", "schedule")))
    short = short_names(rows["optimizer"], rows["tuned_label"])
    table["optimizer_label"] = table["optimizer_label"].map(short)
    rivals = table.groupby(["group", "any_optimizer", "trials"])["validation_accuracy"]
    table["best"] = table["validation_accuracy"] == rivals.transform("max")
    order = ["group", "contest", "trials", "validation_accuracy"]
    table = table.sort_values(order, ascending=[True, True, True, False], ignore_index=True, kind="stable")
    notes = [*_told(table), "Judged on validation data of the trials' seeds: what is picked, not what is proven."]
    return Exhibit(table.drop(columns="any_optimizer"), notes=tuple(notes))


def _budgets(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The best rate of each combination after each number of trials; one without an answer is spent all the same."""
    seeds = rows.groupby("group")["seed"].nunique().to_dict()
    unanswered = ~rows["status"].isin(RESULTS)
    lossless = rows[["train_loss", "test_loss"]].isna().any(axis=1)
    diverged = ~unanswered & ((rows["status"] != "finished") | lossless)
    rows = rows.assign(
        accuracy=rows["validation_accuracy"].mask(unanswered).mask(diverged, 0.0),
        diverged=diverged,
        number=rows["tuning"].str.removeprefix(TRIAL).astype(int),
    )
    for (group, _), own in rows.groupby(["group", "any_lr"], sort=False):
        trials = [
            Trial(
                lr=float(tried["lr"].iloc[0]),
                validation_accuracy=float(tried["accuracy"].mean())
                if tried["accuracy"].count() == seeds[group]
                else None,
            )
            for _, tried in own.groupby(["number", "lr"])
        ]
        lost = own.groupby("number")["diverged"].any()
        first = own.iloc[0]
        for budget in sorted({1, min(FEW, len(trials)), len(trials)}):
            lr = best(trials[:budget])
            if lr is None:
                continue
            yield {
                "group": group,
                **{name: first[name] for name in ("any_optimizer", "architecture_label", "batch_size")},
                "optimizer_label": first["tuned_label"],
                "schedule_label": first["schedule_label"],
                "trials": budget,
                "diverged": int(lost[lost.index <= budget].sum()),
                "lr": lr,
                "validation_accuracy": next(trial.validation_accuracy for trial in trials if trial.lr == lr),
            }


def _told(table: pd.DataFrame) -> Iterator[str]:
    several = table["contest"].nunique() > 1
    for (_, contest), rows in table.groupby(["group", "contest"], sort=False):
        if rows["optimizer_label"].nunique() < 2:
            continue
        said = []
        for trials, own in rows[rows["best"]].groupby("trials"):
            accuracy = percent(own["validation_accuracy"].iloc[0])
            said.append(
                f"after {plural(int(str(trials)), 'trial')} {' and '.join(own['optimizer_label'])} ({accuracy})"
            )
        yield f"{f'{contest}: best' if several else 'Best'} {', '.join(said)}."


SECTION = Section(_answer)
