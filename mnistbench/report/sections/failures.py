"""What did not finish, why, and how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mnistbench.report.exhibit import Exhibit, nothing, rows_of
from mnistbench.report.inventory import STATUSES
from mnistbench.report.labels import labels
from mnistbench.report.sections.section import Answer, Log, Part, Question, Section, Study
from mnistbench.report.tables import Column, of_kind, table
from mnistbench.results.records import RESULTS
from mnistbench.words import markdown

MOST_LOGS = 50
MOST_ROWS = 10
"""In `summary.md`."""
MOST_LOG_CHARACTERS = 6000


def _answer(study: Study) -> Answer:
    """What failed?"""
    question = Question("failures", "What failed?", "Failures")
    exhibit = failures(study.runs, study.folder)
    unread: list[Part] = []
    if study.unread:
        files = pd.DataFrame(study.unread, columns=["file", "reason"])
        columns = [*of_kind("code", "file"), *of_kind("long", "reason")]
        shown = table(files, columns, name="unread", caption="Files set aside")
        unread = [Part("Files that are no record", table=shown, disclosed=False)]
    if not exhibit and not unread:
        return Answer.without(question, exhibit)
    if not exhibit:
        return Answer(question, lead=exhibit.reason, parts=unread, notes=exhibit.notes)
    columns = [
        Column("label", "cell", "name"),
        Column("status", "status", "tag", filtered=True),
        *of_kind("long", "reason"),
        *of_kind("count", "step"),
        Column("rerun", "command that reruns it", "command"),
        Column("cell_id", "id", "code", hidden=True),
    ]
    shown = table(exhibit.frame, columns, name="failures-table", caption="Cells that did not finish", most=500)
    logs = []
    for row in rows_of(exhibit.frame):
        if printed := [text[-MOST_LOG_CHARACTERS:] for text in (row.log, row.stack) if text]:
            logs.append(Log(f"{row.label}: {row.status}", "\n".join(printed)))
    parts = [Part(table=shown, disclosed=False)]
    if logs:
        more = f" The first {MOST_LOGS} of {len(logs)} are shown." if len(logs) > MOST_LOGS else ""
        parts.append(Part("Last lines", sentences=[f"What the worker printed last.{more}"], logs=logs[:MOST_LOGS]))
    lead = (
        "Diverged and out-of-memory cells are answers and are kept; failed, timed-out and killed ones run again with"
        " the grid."
    )
    return Answer(question, lead=lead, parts=[*parts, *unread], notes=exhibit.notes)


def failures(frame: pd.DataFrame, folder: Path | None = None) -> Exhibit:
    """Every cell that did not finish, with its reason and the command that runs it again.

    Diverged and out of memory are answers, so there it has `--force`.
    """
    rows = frame[frame["status"] != "finished"]
    if rows.empty:
        return nothing("Every cell that ran has finished." if len(frame) else "There are no records.")
    order = {status: place for place, status in enumerate(STATUSES)}
    rows = rows.sort_values("status", key=lambda column: column.map(order), ascending=False, kind="stable")
    failed = rows[["group", "cell_id", "seed", "device", "status"]].assign(
        label=rows["settings"].map(labels(frame)),
        reason=rows["error"].fillna("no reason was recorded"),
        step=rows["error_step"],
        log=rows["error_log"].fillna(""),
        stack=rows["error_stack"].fillna(""),
        rerun=[_rerun(row, folder) for row in rows.to_dict("records")],
    )
    return Exhibit(failed.reset_index(drop=True))


def _rerun(row: dict[Any, Any], folder: Path | None) -> str:
    only = {name: row[name] for name in ("architecture", "optimizer", "batch_size", "device", "seed")}
    words = " ".join(f"--only {shlex.quote(f'{name}={value}')}" for name, value in only.items())
    axes = ("dataset", "architecture", "optimizer", "schedule", "loss")
    modules = dict.fromkeys(row[axis].partition(":")[0] for axis in axes if ":" in row[axis])
    words += "".join(f" --plugin {shlex.quote(module)}" for module in modules)
    grid = f"{shlex.quote(f'{folder}/grid.yaml')} --out {shlex.quote(str(folder))}" if folder else "grid.yaml"
    return f"python -m mnistbench run {grid} {words}{' --force' if row['status'] in RESULTS else ''}"


def _text(study: Study) -> Iterator[str]:
    failed = failures(study.runs)
    if not failed:
        return
    yield "## What did not finish"
    rows = failed.frame.head(MOST_ROWS).to_dict("records")
    yield markdown.table(
        ["cell", "seed", "status", "reason"],
        [[row["label"], row["seed"], row["status"], row["reason"]] for row in rows],
    )
    if len(failed.frame) > MOST_ROWS:
        yield f"{len(failed.frame) - MOST_ROWS} more in results.csv."


SECTION = Section(_answer, text=_text)
