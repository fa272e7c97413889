"""Which classes go wrong."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mnistbench.report import charts, palette
from mnistbench.report.exhibit import Exhibit, highest, lowest, nothing, rows_of
from mnistbench.report.frame import Record
from mnistbench.report.labels import labels
from mnistbench.report.palette import MUTED, PAPER, series_colour
from mnistbench.report.samples import may_be_ranked, settled
from mnistbench.report.sections.section import Answer, Part, Question, Section, Study
from mnistbench.report.tables import Column, of_kind, table
from mnistbench.results.measures import parts
from mnistbench.words.wording import count, percent


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
        return Answer.without(question, exhibit)
    by_class = per_class(exhibit.frame)
    figures = [confusion_map(exhibit.frame, "confusion"), class_errors(by_class, "class-errors")]
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
    frame = settled(frame)
    frame = frame.loc[may_be_ranked(frame, frame)]  # an empty list would choose no column, were it not for `loc`
    models = {plain["record_id"]: parts(plain.get("model")) for plain in map(parts, records)}
    matrices = {record_id: model["confusion"] for record_id, model in models.items() if model.get("confusion")}
    held = (frame["status"] == "finished") & frame["test_accuracy"].notna() & frame["record_id"].isin(list(matrices))
    if not held.any():
        return nothing("No finished cell that may be ranked holds a confusion matrix.")
    row = frame[held].sort_values(["test_accuracy", "train_seconds"], ascending=[False, True]).iloc[0]
    counts = np.asarray(matrices[row["record_id"]], dtype=int)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        return nothing("The best cell's confusion matrix is not square.")
    true, predicted = np.indices(counts.shape)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    columns = {"true": true, "predicted": predicted, "count": counts, "share": counts / totals}
    table = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    name = labels(frame)[str(row["settings"])]
    note = f"{name}, seed {row['seed']}: {percent(row['test_accuracy'], 2)} of the test data right."
    return Exhibit(table, notes=(note,))


def per_class(confusions: pd.DataFrame) -> pd.DataFrame:
    """Errors by class from the frame of `confusion`."""
    counts = confusions.pivot(index="true", columns="predicted", values="count").to_numpy(dtype=int)
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


def confusion_map(rows: pd.DataFrame, name: str) -> charts.Chart:
    """True classes down, predicted across; shade by share of the true class, the diagonal left plain."""
    import seaborn as sns

    counts, shares = (rows.pivot(index="true", columns="predicted", values=name) for name in ("count", "share"))
    numbers, wrong = counts.to_numpy(dtype=int), shares.to_numpy(copy=True)
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
        for (true, predicted), number in np.ndenumerate(numbers):
            step, right = int(steps[true, predicted]), true == predicted
            if right or number:
                axes.text(
                    predicted + 0.5, true + 0.5, f"{number}", ha="center", va="center", fontsize=9 if right else 9.5,
                    color=MUTED.light if right else palette.ink_on(palette.SEQUENTIAL[step]),
                    fontweight="bold" if step >= 4 else "normal",
                )  # fmt: skip
        names = [str(label) for label in counts.index]
        axes.set_xticks(np.arange(size) + 0.5, names, rotation=0)
        axes.set_yticks(np.arange(size) + 0.5, names, rotation=0)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="true")
    worst = rows[rows["true"] != rows["predicted"]].sort_values("count", ascending=False).iloc[0]
    alt = (
        f"Confusion of {count(rows['count'].sum())} test examples: most often {worst['true']:.0f} taken for"
        f" {worst['predicted']:.0f}, {count(worst['count'])} times."
        " The diagonal, correct answers, is left unshaded."
    )
    return charts.Chart(name, "Confusion matrix", alt, figure)


def class_errors(rows: pd.DataFrame, name: str) -> charts.Chart:
    """Share of each true class that went wrong."""
    import seaborn as sns

    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.9 + 0.32 * max(len(rows), 4))
        sns.barplot(
            x=100 * rows["error"].to_numpy(), y=[str(label) for label in rows["true"]], ax=axes,
            color=series_colour(0), saturation=1, width=0.62,
        )  # fmt: skip
        for place, row in enumerate(rows_of(rows)):
            axes.annotate(f"{percent(row.error, 2)}  ({count(row.errors)})", (100 * row.error, place), xytext=(5, 0),
                          textcoords="offset points", va="center", fontsize=9.5)  # fmt: skip
        axes.set_xlim(0, max(100 * rows["error"].max() * 1.3, 0.1))
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="errors, % of the class", ylabel="")
    worst, best = highest(rows, "error"), lowest(rows, "error")
    alt = (
        f"Errors by class: most for {worst.true} ({percent(worst.error, 2)}), fewest for"
        f" {best.true} ({percent(best.error, 2)})."
    )
    return charts.Chart(name, "Errors by class", alt, figure)


SECTION = Section(_answer)
