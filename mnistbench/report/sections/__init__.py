"""The questions of the report, the grid's own first; each becomes one section of the page."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from mnistbench.report.frame import targets_in
from mnistbench.report.sections import accuracy, speed, trust
from mnistbench.report.sections.section import Section, Study
from mnistbench.report.trials import is_tuned

Question = Callable[[Study], Section]


def questions(frame: pd.DataFrame) -> list[Question]:
    """One function a question: what the grid varies and asks for leads, then what can be said of every grid."""

    def varies(column: str) -> bool:
        return bool(frame[column].nunique() > 1)

    order: list[tuple[Question, bool]] = [
        (speed.devices, varies("device")),
        (speed.levers, varies("execution_label")),
        (accuracy.optimizers, is_tuned(frame)),
        (speed.first, bool(targets_in(frame))),
        (accuracy.optimizers, varies("optimizer_label")),
        (accuracy.large_batches, varies("batch_size")),
        (speed.throughput, varies("batch_size")),
        (speed.first, True),
        (speed.time, True),
        (trust.noise, True),
        (speed.throughput, True),
        (accuracy.learning, True),
        (accuracy.classes, True),
        (trust.failures, True),
        (trust.repeat, True),
        (speed.devices, True),
        (speed.levers, True),
        (accuracy.optimizers, True),
        (accuracy.large_batches, True),
    ]
    return list(dict.fromkeys(question for question, is_asked in order if is_asked))


__all__ = ["Section", "Study", "questions"]
