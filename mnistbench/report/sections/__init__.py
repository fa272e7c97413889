"""The questions of the report, one file each, the grid's own first. A new one is a file here and a line below."""

from __future__ import annotations

import pandas as pd

from mnistbench.report.frame import targets_in
from mnistbench.report.sections import (
    classes,
    devices,
    energy,
    failures,
    first,
    large_batches,
    learning,
    levers,
    noise,
    optimizers,
    repeat,
    throughput,
    time,
)
from mnistbench.report.sections.optimizers import is_tuned
from mnistbench.report.sections.section import Answer, Section, Study


def sections(frame: pd.DataFrame) -> list[Section]:
    """All of them: what the grid varies and asks for leads, then what can be said of every grid."""

    def varies(column: str) -> bool:
        return bool(frame[column].nunique() > 1)

    order = [
        (devices.SECTION, varies("device")),
        (levers.SECTION, varies("execution_label")),
        (optimizers.SECTION, is_tuned(frame)),
        (first.SECTION, bool(targets_in(frame))),
        (optimizers.SECTION, varies("optimizer_label")),
        (large_batches.SECTION, varies("batch_size")),
        (throughput.SECTION, varies("batch_size")),
        (first.SECTION, True),
        (time.SECTION, True),
        (energy.SECTION, True),
        (noise.SECTION, True),
        (throughput.SECTION, True),
        (learning.SECTION, True),
        (classes.SECTION, True),
        (failures.SECTION, True),
        (repeat.SECTION, True),
    ]
    return list(dict.fromkeys([section for asked in (True, False) for section, is_asked in order if is_asked is asked]))


__all__ = ["Answer", "Section", "Study", "sections"]
