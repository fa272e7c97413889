"""What training costs in energy, where the machine counts it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.exhibit import Exhibit, lowest, nothing
from mnistbench.report.labels import labels
from mnistbench.report.repeats import counted, measured, repeats
from mnistbench.report.sections.section import Answer, Part, Question, Section, Study, groups
from mnistbench.report.tables import SETTING, Column, of_kind, shared, table
from mnistbench.words.wording import joules, plural


def energy(frame: pd.DataFrame) -> Exhibit:
    """Joules of the timed training per 1,000 examples, and to the largest target where all seeds reached it."""
    frame = counted(frame)
    rows = measured(frame, ["finished"])
    rows = rows[rows["joules_per_1000_examples"].notna()]
    if rows.empty:
        return nothing("No record says: it was not measurable, or cells shared the machine.")
    names, table = labels(frame), []
    for runs in repeats(rows):
        shown = statistics.summarize(runs.known("joules_per_1000_examples"))
        table.append(
            {
                **{name: runs.first(name) for name in ["group", *SETTING.split()]},
                "label": names[runs.settings],
                **shown.columns("joules"),
                "joules_to_target": float(np.median(runs.floats("joules_to_target"))),
            }
        )
    return Exhibit(pd.DataFrame(table).sort_values(["group", "joules"], ignore_index=True))


def _answer(study: Study) -> Answer:
    question = Question("energy", "What does it cost in energy?", "Energy")
    exhibit = energy(study.frame)
    if not exhibit:
        return Answer.without(question, exhibit)
    columns = [
        *shared(SETTING),
        Column("joules", "energy per 1,000 examples", "joules"),
        *of_kind("joules", "low high"),
        *shared("interval"),
        Column("joules_to_target", "energy to target", "joules"),
    ]
    caption = "Energy by setting and device"
    parts = [
        Part(heading, table=table(rows, columns, name=f"energy-table{suffix}", caption=caption), disclosed=False)
        for heading, suffix, rows in groups(exhibit.frame)
    ]
    lead = (
        "Of the timed training, as a GPU counts it (NVML), or the processor's sockets with all else that ran on them"
        " (RAPL): neither holds the other."
    )
    return Answer(question, lead=lead, parts=parts)


def _sentences(frame: pd.DataFrame, _: pd.DataFrame) -> Iterator[str]:
    exhibit = energy(frame)
    for device, rows in exhibit.frame.groupby("device", sort=False) if exhibit else []:
        least, most = lowest(rows, "joules"), joules(rows["joules"].max())
        upto = f", and {most} at most" if len(rows) > 1 else ""
        yield (
            f"The least energy on {device}: {joules(least.joules)} per 1,000 examples with {least.label}"
            f" ({least.interval}; {plural(len(rows), 'setting')}{upto})."
        )


SECTION = Section(_answer, _sentences)
