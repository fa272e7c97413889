"""Which optimizer is best, and after how few trials of its learning rate (rules 10 and 18)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd

from mnistbench.grid.product import TRIAL, TUNED
from mnistbench.grid.tune import Trial, best
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.labels import labels, short_names
from mnistbench.report.repeats import measured, one_per_seed, repeats
from mnistbench.report.samples import accuracy_of, settled
from mnistbench.report.sections.section import Answer, Part, Question, Section, Study
from mnistbench.report.statistics import RANK_TEST_SEEDS
from mnistbench.report.tables import SETTING, Column, of_kind, shared, table
from mnistbench.report.verdicts import compare
from mnistbench.results.records import RESULTS
from mnistbench.words.wording import percent, plural, rank_text

FEW = 3
"""The budget between a single trial and all of them."""


def _answer(study: Study) -> Answer:
    """Which optimizer is best?"""
    question = Question("optimizers", "Which optimizer is best?", "Optimizers")
    exhibit, tried = optimizer_ranking(study.frame), best_after_trials(study.runs)
    parts = []
    if exhibit:
        columns = [
            *shared("dataset_label architecture_label training_label batch_size device execution_label"),
            Column("rank_text", "rank", order="rank"),
            *shared("optimizer_label"),
            Column("lr", "learning rate", "whole"),
            Column("lr_scaling", "its rule"),
            *shared("schedule_label tuning test_accuracy"),
            *of_kind("percent", "low high"),
            *shared("interval"),
            Column("n", "seeds", "count"),
            *shared("diverged unranked"),
        ]
        caption = "Optimizers by test accuracy, within the same network, batch and device"
        ranking = table(exhibit.frame, columns, name="optimizers-table", caption=caption)
        parts.append(Part(table=ranking, disclosed=False))
    if tried:
        columns = [
            *shared("dataset_label architecture_label training_label batch_size"),
            Column("trials", "trials", "count", filtered=True),
            *shared("diverged optimizer_label schedule_label"),
            Column("lr", "rate picked", "whole"),
            *of_kind("percent", "validation_accuracy"),
        ]
        caption = "The best learning rate of each optimizer after so many trials, by validation accuracy"
        trials = table(tried.frame, columns, name="after-trials", caption=caption)
        parts.append(Part("Best after few trials", sentences=tried.notes, table=trials))
    if not parts:
        return Answer.without(question, exhibit)
    lead = (
        "Test accuracy within the same network, batch size and device. The learning rate is that of the grid, at its"
        " base batch size where it has a rule that scales it."
    )
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes)


def optimizer_ranking(frame: pd.DataFrame) -> Exhibit:
    """Optimizers by test accuracy within the same architecture, batch size and device (a contest).

    A rank is one more than the number proven better, NA below 7 seeds or where some are tuned and others are not;
    `rank_text` is the range of ranks that the optimizer may have.
    """
    frame = settled(frame)
    rows = measured(frame, ["finished", "diverged"])
    rivals = rows.groupby(["group", "any_optimizer"])["settings"].transform("nunique")
    rows = rows[rivals > 1]
    if rows.empty:
        return nothing("No two optimizers ran on the same architecture, batch size and device.")
    contests = labels(frame, "any_optimizer", without=("optimizer", "schedule"))
    lost, won = _decided(frame, rows)
    about = [
        "group",
        "settings",
        *SETTING.split(),
        "lr",
        "lr_scaling",
        "tuning",
    ]
    entries = [
        {
            **{name: runs.first(name) for name in about},
            "contest": contests[runs.first("any_optimizer")],
            "rank": lost[runs.group, runs.settings] + 1,
            "won": won[runs.group, runs.settings],
            **accuracy_of(runs),
        }
        for runs in repeats(rows)
    ]
    table = pd.DataFrame(entries)
    table["is_last"] = table["unranked"] != ""
    order = ["group", "architecture_label", "batch_size", "contest", "is_last", "test_accuracy"]
    table = table.sort_values(order, ascending=[True] * 5 + [False], ignore_index=True)
    ranked = table[~table["is_last"]].groupby(["group", "contest"])
    few = ranked["n"].transform("min") < RANK_TEST_SEEDS
    unlike = ranked["tuning"].transform("nunique") > 1
    table["rank"] = table["rank"].astype("Int64").mask((few | unlike).reindex(table.index, fill_value=True))
    last = ranked["won"].transform("size") - table.pop("won")
    ranges = zip(table["rank"], last, strict=True)
    table["rank_text"] = ["" if rank is pd.NA else rank_text(rank, int(end)) for rank, end in ranges]
    note = f"A rank needs {RANK_TEST_SEEDS} seeds each, and all tuned alike; else ordered by median."
    return Exhibit(table, notes=(note,) if table["rank"].isna().any() else ())


def _decided(frame: pd.DataFrame, rows: pd.DataFrame) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """How many rivals are proven more, and less accurate, by (group, settings); Bonferroni over all contests."""
    lost: Counter[tuple[str, str]] = Counter()
    won: Counter[tuple[str, str]] = Counter()
    for group, part in rows.drop_duplicates(["group", "settings"]).groupby("group"):
        contests = part.groupby("any_optimizer")["settings"]
        chosen = [pair for _, names in contests for pair in itertools.combinations(names, 2)]
        for pair in compare(frame[frame["group"] == group], "test_accuracy", NO_BLOCKS, chosen).get(str(group), []):
            if pair.verdict in ("better", "worse"):
                winner, loser = (pair.a, pair.b) if pair.verdict == "better" else (pair.b, pair.a)
                won[str(group), winner.settings] += 1
                lost[str(group), loser.settings] += 1
    return lost, won


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
    order = ["group", "architecture_label", "batch_size", "contest", "trials", "validation_accuracy"]
    table = table.sort_values(order, ascending=[True] * 5 + [False], ignore_index=True, kind="stable")
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
                lr=float(str(lr)), validation_accuracy=accuracies.mean() if accuracies.count() == seeds[group] else None
            )
            for (_, lr), accuracies in own.groupby(["number", "lr"])["accuracy"]
        ]
        lost = own.groupby("number")["diverged"].any()
        first = own.iloc[0]
        for budget in sorted({1, min(FEW, len(trials)), len(trials)}):
            lr = best(trials[:budget])
            if lr is None:
                continue
            yield {
                "group": group,
                **{name: first[name] for name in ("any_optimizer", *SETTING.split())},
                "optimizer_label": first["tuned_label"],
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
