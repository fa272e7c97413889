"""Which classes go wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.report import charts, palette
from mnistbench.report.exhibit import Exhibit, highest, lowest, nothing, rows_of
from mnistbench.report.frame import Record
from mnistbench.report.labels import labels
from mnistbench.report.palette import MUTED, PAPER, series_colour
from mnistbench.report.repeats import counted
from mnistbench.report.samples import settle_outcomes, unranked_settings
from mnistbench.report.sections.section import Answer, Part, Question, Section, Study, unanswered
from mnistbench.report.svg import legible
from mnistbench.report.tables import Column, of_kind, table
from mnistbench.results.measures import parts
from mnistbench.words.wording import clipped, count, percent


def _answer(study: Study) -> Answer:
    """Which digits go wrong?"""
    digits = bool(len(study.frame)) and set(study.frame["dataset"]) <= {"mnist", "digits"}
    question = Question(
        "classes",
        "Which digits go wrong?" if digits else "Which classes go wrong?",
        "Errors by digit" if digits else "Errors by class",
    )
    exhibit = confusion(study.records, study.frame)
    if not exhibit:
        return unanswered(question, exhibit)
    by_class = per_class(exhibit.frame)
    names = {int(label): str(int(label)) for label in exhibit.frame["true"].unique()}
    figures = [confusion_map(exhibit.frame, "confusion", names), class_errors(by_class, "class-errors", names)]
    shown = table(
        by_class,
        [
            Column("true", "class", "count"),
            *of_kind("count", "examples errors"),
            Column("error", "error", "percent"),
            Column("most_confused_with", "most often taken for", "count"),
            Column("times", "times", "count"),
        ],
        name="classes-table",
        caption="Errors by class",
    )
    return Answer(
        question, lead=" ".join(exhibit.notes[:1]), parts=[Part(charts=figures, table=shown)], notes=exhibit.notes[1:]
    )


def confusion(records: Iterable[Record], frame: pd.DataFrame) -> Exhibit:
    """Confusion matrix of the best cell that may be ranked (highest test accuracy at the last epoch), in long form.

    `notes[0]` names the cell.
    """
    frame = settle_outcomes(counted(frame))
    nowhere = unranked_settings(frame)
    ranked = [key not in nowhere for key in zip(frame["group"], frame["settings"], strict=True)]
    frame = frame.loc[ranked]  # an empty list would choose no column, were it not for `loc`
    done = frame[(frame["status"] == "finished") & frame["test_accuracy"].notna()]
    ordered = done.sort_values(["test_accuracy", "train_seconds"], ascending=[False, True])
    order = {record_id: place for place, record_id in enumerate(ordered["record_id"])}
    best: tuple[int, Any] | None = None
    for record in records:
        plain = parts(record)
        place, matrix = order.get(plain["record_id"]), parts(plain.get("model")).get("confusion")
        if place is not None and matrix and (best is None or place < best[0]):
            best = (place, matrix)
    if best is None:
        return nothing("No finished cell that may be ranked holds a confusion matrix.")
    row = ordered.iloc[best[0]]
    counts = np.asarray(best[1], dtype=int)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        return nothing("The best cell's confusion matrix is not square.")
    true, predicted = np.indices(counts.shape)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    table = pd.DataFrame(
        {
            "true": true.ravel(),
            "predicted": predicted.ravel(),
            "count": counts.ravel(),
            "share": (counts / totals).ravel(),
        }
    )
    name = labels(frame)[str(row["settings"])]
    note = f"{name}, seed {row['seed']}: {percent(row['test_accuracy'], 2)} of the test data right."
    return Exhibit(table, notes=(note,))


def per_class(confusions: pd.DataFrame) -> pd.DataFrame:
    """Errors by class from the frame of `confusion`."""
    counts = confusions.pivot_table(index="true", columns="predicted", values="count", aggfunc="sum").to_numpy(
        dtype=int
    )
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    examples, errors = counts.sum(axis=1), wrong.sum(axis=1)
    worst = pd.Series(wrong.argmax(axis=1), dtype="Int64").mask(pd.Series(errors == 0))
    return pd.DataFrame(
        {
            "true": np.arange(len(counts)),
            "examples": examples,
            "errors": errors,
            "error": errors / np.maximum(examples, 1),
            "most_confused_with": worst,
            "times": wrong.max(axis=1),
        }
    )


def confusion_map(rows: pd.DataFrame, name: str, classes: dict[int, str]) -> charts.Chart:
    """True classes down, predicted across; shade by share of the true class, the diagonal left plain."""
    import seaborn as sns

    counts = rows.pivot_table(index="true", columns="predicted", values="count", aggfunc="sum")
    shares = rows.pivot_table(index="true", columns="predicted", values="share", aggfunc="sum").to_numpy()
    numbers, wrong = counts.to_numpy(), shares.copy()
    np.fill_diagonal(wrong, 0.0)
    top = wrong.max() or 1.0
    last = len(palette.SEQUENTIAL) - 1
    steps = np.ceil(np.sqrt(wrong / top) * last)
    size = len(counts)
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.9 + 0.4 * max(size, 4))
        sns.heatmap(
            steps, ax=axes, cbar=False, cmap=[colour.light for colour in palette.SEQUENTIAL], vmin=-0.5,
            vmax=last + 0.5, linewidths=1.5, linecolor=PAPER.light, mask=np.eye(size, dtype=bool),
        )  # fmt: skip
        for true in range(size):
            for predicted in range(size):
                number, step = int(numbers[true, predicted]), steps[true, predicted]
                if true == predicted:
                    axes.text(predicted + 0.5, true + 0.5, f"{number}", ha="center", va="center", color=MUTED.light,
                              fontsize=9)  # fmt: skip
                elif number:
                    ink = palette.ink_on(palette.SEQUENTIAL[int(step)])
                    axes.text(predicted + 0.5, true + 0.5, f"{number}", ha="center", va="center", color=ink,
                              fontsize=9.5, fontweight="bold" if step >= 4 else "normal")  # fmt: skip
        names = [legible(clipped(classes.get(int(label), str(label)), 12)) for label in counts.index]
        axes.set_xticks(np.arange(size) + 0.5, names, rotation=0 if max(map(len, names)) < 4 else 45)
        axes.set_yticks(np.arange(size) + 0.5, names, rotation=0)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="true")
    worst = rows[rows["true"] != rows["predicted"]].sort_values("count", ascending=False).iloc[0]
    alt = (
        f"Confusion of {count(rows['count'].sum())} test examples: most often {classes[int(worst['true'])]} taken for"
        f" {classes[int(worst['predicted'])]}, {count(worst['count'])} times."
        " The diagonal, correct answers, is left unshaded."
    )
    return charts.Chart(name, "Confusion matrix", alt, figure)


def class_errors(rows: pd.DataFrame, name: str, classes: dict[int, str]) -> charts.Chart:
    """Share of each true class that went wrong."""
    import seaborn as sns

    names = [legible(clipped(classes.get(int(label), str(label)), 14)) for label in rows["true"]]
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.9 + 0.32 * max(len(rows), 4))
        sns.barplot(
            x=100 * rows["error"].to_numpy(), y=names, ax=axes, color=series_colour(0), saturation=1, width=0.62
        )
        for place, row in enumerate(rows_of(rows)):
            axes.annotate(f"{percent(row.error, 2)}  ({count(row.errors)})", (100 * row.error, place), xytext=(5, 0),
                          textcoords="offset points", va="center", fontsize=9.5)  # fmt: skip
        axes.set_xlim(0, max(100 * rows["error"].max() * 1.3, 0.1))
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="errors, % of the class", ylabel="")
    worst, best = highest(rows, "error"), lowest(rows, "error")
    alt = (
        f"Errors by class: most for {classes.get(int(worst.true), worst.true)} ({percent(worst.error, 2)}), fewest for"
        f" {classes.get(int(best.true), best.true)} ({percent(best.error, 2)})."
    )
    return charts.Chart(name, "Errors by class", alt, figure)


SECTION = Section(_answer)
