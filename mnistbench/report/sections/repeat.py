"""What it takes to repeat it: machines, versions, data, the grid, every run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from mnistbench.report import frame as frames
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.sections.section import Answer, Log, Part, Question, Section, Study
from mnistbench.report.tables import Column, Table, shared, table
from mnistbench.results.measures import MEASURES, TARGET_MEASURES
from mnistbench.words import markdown
from mnistbench.words.wording import accuracy_text, byte_count, clipped, missing, plural

SETTINGS = [
    *shared("architecture_label optimizer_label"),
    Column("lr", "learning rate", "number", hidden=True),
    *shared("tuning"),
    Column("schedule_label", "schedule", "name", hidden=True),
    *shared("batch_size device execution_label"),
    Column("seed", "seed", "count"),
    Column("repeat", "twin", "count", hidden=True),
    Column("kind", "kind", filtered=True, hidden=True),
    Column("status", "status", "tag", filtered=True),
    Column("outdated", "outdated", "words"),
]
"""Of the table of every run: what was asked, before what was measured."""
ENERGY_SOURCES = {
    "nvml": "counted by the GPU (NVML)",
    "rapl": "counted by the processor's sockets (RAPL), everything else that ran on them included",
}
MARKS = [*shared("flags"), Column("cell_id", "cell", "code", hidden=True)]


def _answer(study: Study) -> Answer:
    """Can I repeat it?"""
    question = Question("repeat", "Can I repeat it?", "Repeat it")
    exhibit = environments(study.runs)
    timed = ", ".join(f"speeds by protocol {number}" for number in sorted(set(study.blocks["protocol"])))
    parts = []
    for row in exhibit.frame.head(12).to_dict("records"):
        device = row["device"] if missing(row["device_name"]) else row["device_name"]
        parts.append(Part(clipped(f"{row['machine']}: {device}", 80), facts=_environment(row, device, timed)))
    grids = [
        Log(f"{name}: grid.yaml as resolved", text, open=len(study.grids) == 1) for name, text in study.grids.items()
    ]
    if grids:
        parts.append(Part("Grid", logs=grids))
    if len(study.runs):
        parts.append(Part("Every run", table=_every_run(study.runs)))
    lead = (
        "Take the grid below and run it; equal seeds give equal losses on a CPU. The CSV files hold every cell and"
        " every epoch."
    )
    return Answer(question, lead=lead, parts=parts, notes=exhibit.notes, downloads=True)


def environments(frame: pd.DataFrame) -> Exhibit:
    """Machines, builds and data: one row per different environment."""
    rows = frame[frame["group"] != ""]
    if rows.empty:
        return nothing("No record says where it ran.")
    keys = [
        "group", "machine", "machine_id", "device", "device_name", "os", "cpu", "memory_bytes", "python", "torch",
        "cuda", "mnistbench", "git_commit", "git_dirty", "energy_source", "protocol", "dataset", "data_sha256",
        "fallback",
    ]  # fmt: skip
    grouped = rows.groupby(keys, dropna=False, sort=False)
    counted = grouped.agg(cells=("cell_id", "size"), first=("started_at", "min"), last=("started_at", "max"))
    return Exhibit(counted.reset_index())


def _environment(row: Any, device: str, timed: str) -> list[tuple[str, str]]:
    facts = {
        "cells": f"{plural(int(str(row['cells'])), 'run')} from {_day(row['first'])} to {_day(row['last'])}",
        "machine": f"{row['machine']} (id {row['machine_id']})",
        "device": device,
        "processor": row["cpu"],
        "memory": byte_count(row["memory_bytes"]),
        "system": row["os"],
        "versions": f"Python {row['python']}, torch {row['torch']}"
        + (f", CUDA {row['cuda']}" if not missing(row["cuda"]) else "")
        + f", mnistbench {row['mnistbench']}, protocol {row['protocol']}{f', {timed}' if timed else ''}",
        "commit": f"{row['git_commit']}{' with uncommitted changes' if row['git_dirty'] is True else ''}",
        "energy": ENERGY_SOURCES.get(str(row["energy_source"]), "not measurable here"),
        "data": f"{row['dataset']}{' (a fallback)' if row['fallback'] is True else ''}, SHA-256 {row['data_sha256']}",
    }
    return [(term, str(value)) for term, value in facts.items() if str(value) not in ("", "nan", "None", "<NA>")]


def _day(value: object) -> str:
    return str(value)[:16].replace("T", " ")


def _every_run(runs: pd.DataFrame) -> Table:
    """What was asked of each run, what it reached at each target, and what was measured."""
    targets = frames.targets_in(runs)
    columns = list(SETTINGS)
    for place, target in enumerate(targets):
        answered = frames.at_target(runs, target)
        for measure in TARGET_MEASURES:
            if measure.title:
                key = f"{measure.name}_{place}"
                runs = runs.assign(**{key: answered[measure.name]})
                title = measure.title if len(targets) == 1 else measure.title.replace("target", accuracy_text(target))
                columns.append(Column(key, title, measure.shown, hidden=measure.hidden))
    columns += [
        Column(measure.name, measure.title, measure.shown, hidden=measure.hidden)
        for measure in MEASURES
        if measure.title
    ]
    return table(runs, [*columns, *MARKS], name="runs", caption="Every run")


def _text(study: Study) -> Iterator[str]:
    machines = environments(study.runs)
    if not machines:
        return
    yield "## Where it ran"
    columns = ["machine", "device", "device_name", "torch", "python", "mnistbench", "git_commit", "dataset", "cells"]
    named = machines.frame.assign(device_name=machines.frame["device_name"].fillna(machines.frame["cpu"]))[columns]
    shown = named.astype(object).where(named.notna(), "")
    yield markdown.table(columns, shown.to_numpy().tolist())


SECTION = Section(_answer, text=_text)
