"""What a section of the page is made of, and what all questions are asked of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mnistbench.report.blocks import blocks_frame
from mnistbench.report.charts import Chart
from mnistbench.report.exhibit import Exhibit
from mnistbench.report.tables import Table
from mnistbench.results.records import CellRecord
from mnistbench.words.wording import plural

MOST_SENTENCES = 3
"""Of one kind, for each group; the tables have the rest."""


def bare_profiles(rows: pd.DataFrame) -> list[str]:
    """Executions without levers of their own; where there are none, the first two."""
    labels = sorted(set(rows["execution_label"]))
    return [label for label in labels if "(" not in label] or labels[:2]


def apart(rows: pd.DataFrame, panel: Sequence[str]) -> list[str]:
    """What names the panels of a chart: these columns, and those without which settings would share a place in one."""
    place = ["architecture_label", "optimizer_label", "batch_size", "device", "execution_label"]
    more = ["dataset_label", "schedule_label", "training_label"]
    return [*panel, *(name for name in more if rows.groupby(place)[name].nunique().max() > 1)]


def left_to_the_table(rows: pd.DataFrame) -> list[str]:
    """A sentence for executions that are not drawn, if there are some."""
    count = rows["execution_label"].nunique() - len(bare_profiles(rows))
    if not count:
        return []
    return [f"The bare profiles are drawn; {plural(count, 'other')} with levers of their own stand in the table."]


@dataclass(frozen=True)
class Study:
    """The records of a report, read once.

    Attributes:
        name: of the grid, or of all grids that were merged.
        records: those that count.
        runs: `results_frame` of them.
        frame: the runs among them that count (`counted`), twins, and settings that are not trained yet (`not_trained`).
        epochs: `epochs_frame` of them.
        grids: the resolved grid file of each folder, by the folder's name.
        unread: files that are no record, with the reason.
        asked: number of cells of all grids, each once.
        blocks: `blocks_frame` of all sessions of the folders.
        folder: where the records lie; None where they are those of several folders.
    """

    name: str
    records: Sequence[CellRecord]
    runs: pd.DataFrame
    frame: pd.DataFrame
    epochs: pd.DataFrame
    grids: dict[str, str] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)
    asked: int | None = None
    blocks: pd.DataFrame = field(default_factory=blocks_frame)
    folder: Path | None = None


@dataclass(frozen=True)
class Log:
    """Text as a program printed it, behind a disclosure."""

    title: str
    text: str
    open: bool = False


@dataclass(frozen=True)
class Part:
    """A piece of a section: a heading, sentences, charts, one table, logs; all optional.

    Attributes:
        layout: `""` for charts side by side, `small` for small multiples.
        disclosed: the table stands behind a disclosure, because charts show the same.
        facts: pairs of a term and its value.
    """

    heading: str = ""
    sentences: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    layout: str = ""
    table: Table | None = None
    disclosed: bool = True
    logs: Sequence[Log] = ()
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Question:
    """What a section answers: its anchor, its heading, and its entry in the list of contents."""

    id: str
    text: str
    short: str


@dataclass(frozen=True)
class Answer:
    """What the page says to one question.

    Attributes:
        lead: how to read what follows.
        reason: why there is no answer; then nothing else is shown.
        notice: said loudly: what was left out.
        downloads: whether the CSV files are offered here.
    """

    question: Question
    lead: str = ""
    parts: Sequence[Part] = ()
    reason: str = ""
    notes: Sequence[str] = ()
    notice: str = ""
    downloads: bool = False

    @classmethod
    def without(cls, question: Question, exhibit: Exhibit) -> Answer:
        """Of a question that the records hold no data for."""
        return cls(question, reason=exhibit.reason or "The records hold nothing on it.", notes=exhibit.notes)


def _nothing(*_: object) -> Iterator[str]:
    yield from ()


@dataclass(frozen=True)
class Section:
    """One question: each has a file with its numbers, table, chart and sentence.

    Attributes:
        answer: its section of the page.
        sentences: of it in the verdict, from the runs of one group and the blocks.
        text: its paragraphs in `summary.md`.
    """

    answer: Callable[[Study], Answer]
    sentences: Callable[[pd.DataFrame, pd.DataFrame], Iterator[str]] = _nothing
    text: Callable[[Study], Iterator[str]] = _nothing


def groups(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The frame of each machine and build apart: heading ("" when there is only one), suffix for names, rows."""
    names = list(dict.fromkeys(frame["group"]))
    several = len(names) > 1
    for place, name in enumerate(names, 1):
        yield name if several else "", f"-{place}" if several else "", frame[frame["group"] == name]
