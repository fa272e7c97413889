"""What the trials of a tuned grid tell, apart from the cells that were measured (rule 10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from mnistbench.grid.product import TRIAL, TUNED
from mnistbench.grid.tune import Trial, best
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.labels import labels, short_names
from mnistbench.report.repeats import one_per_seed
from mnistbench.results.records import RESULTS
from mnistbench.words.wording import percent, plural

FEW = 3
"""The budget between a single trial and all of them."""


def without_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells that were measured: what every exhibit but `best_after_trials` is about."""
    return frame[frame["kind"] != "trial"]


def is_tuned(frame: pd.DataFrame) -> bool:
    """Whether learning rates were picked for some of the runs."""
    return bool(frame["tuning"].str.startswith(TUNED).any())


def best_after_trials(frame: pd.DataFrame) -> Exhibit:
    """Which optimizer is best after 1, 3 and all trials, by the validation accuracy of the best rate so far.

    Columns: group, contest (what the optimizers share), architecture_label, batch_size, optimizer_label,
    schedule_label, trials (how many), diverged (how many of them, with any seed), lr (picked after so many),
    validation_accuracy (mean over the trial seeds; a training that diverged counts as 0), best (none in the contest is
    more accurate; no verdict, see the notes).
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
    notes = [*_sentences(table), "Judged on validation data of the trials' seeds: what is picked, not what is proven."]
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


def _sentences(table: pd.DataFrame) -> Iterator[str]:
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
