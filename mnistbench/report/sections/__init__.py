"""The questions of the report, in the order a reader asks them; each becomes one section of the page."""

from __future__ import annotations

from collections.abc import Callable

from mnistbench.report.sections import accuracy, speed, trust
from mnistbench.report.sections.section import Section, Study

QUESTIONS: list[Callable[[Study], Section]] = [
    speed.first,
    speed.time,
    speed.devices,
    speed.throughput,
    accuracy.large_batches,
    speed.levers,
    trust.noise,
    accuracy.learning,
    accuracy.classes,
    trust.failures,
    trust.repeat,
]
"""One function a question."""

__all__ = ["QUESTIONS", "Section", "Study"]
