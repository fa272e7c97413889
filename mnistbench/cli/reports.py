"""`report`, `compare`, `merge`, `results from-mlflow`: pages and tables made of records."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mnistbench.cli.flags import (
    RESULTS,
    Figures,
    Folder,
    Folders,
    TensorBoard,
    TrackingUri,
    option,
    read_path,
    results_folder,
)
from mnistbench.cli.outcome import console_for_tables, write_outcome
from mnistbench.errors import UserError
from mnistbench.errors.layers import require
from mnistbench.files.whole import write_whole
from mnistbench.results.folder import ResultsFolder
from mnistbench.words.markdown import one_line
from mnistbench.words.wording import plural, records_and_sessions


def report(
    folders: Folders,
    out: Annotated[
        Path | None,
        option("--out", "The page to write.", RESULTS, "FILE", read=read_path, default="DIR/report.html"),
    ] = None,
    figures: Figures = None,
    tensorboard: TensorBoard = None,
) -> None:
    """Make the report again from the records; several folders become one report."""
    require("report", "report")

    places = [ResultsFolder(results_folder(folder)) for folder in folders]
    if len(places) > 1 and out is None:
        raise UserError("several folders make a report of their own: say where with --out both.html")
    print(write_outcome(places, out=out, figures=figures, tensorboard=tensorboard))


def compare(
    before: Folder,
    after: Folder,
    fail_on: Annotated[
        str | None,
        option("--fail-on", "End with status 5 if so: slower=5%, worse=0.3%.", None, "WHAT=SHARE"),
    ] = None,
    allow_undecided: Annotated[
        bool, option("--allow-undecided", "With --fail-on: what cannot be told is no failure (status 6).")
    ] = False,
    out: Annotated[Path | None, option("--out", "Also write it, as Markdown.", None, "FILE", read=read_path)] = None,
) -> int:
    """Compare two sets of results, cell by cell, with intervals and verdicts."""
    require("report", "compare")
    from mnistbench.report.blocks import blocks_frame
    from mnistbench.report.compare import compare as compare_frames
    from mnistbench.report.compare import parse_threshold
    from mnistbench.report.frame import KINDS, results_frame
    from mnistbench.results.speed import read_sessions
    from mnistbench.results.targets import targets_asked
    from mnistbench.run.status import unread_lines

    threshold = parse_threshold(fail_on) if fail_on else None
    folders = [ResultsFolder(results_folder(path)) for path in (before, after)]
    frames, blocks, notes = [], [], []
    for side, folder in zip("AB", folders, strict=True):
        (records, unread), (sessions, unread_speed) = folder.read(), read_sessions(folder)
        frames.append(results_frame(records, source=str(folder.path), targets=targets_asked(folder), kinds=KINDS))
        blocks.append(blocks_frame(sessions))
        notes += [f"{side}: {line}" for line in unread_lines([*unread, *unread_speed])]
    comparison = compare_frames(
        *frames, blocks_a=blocks[0], blocks_b=blocks[1], fail_on=threshold, allow_undecided=allow_undecided
    )
    comparison = replace(comparison, notes=(*notes, *comparison.notes))
    if out is not None:
        write_whole(out, comparison.to_markdown())
    try:
        print(comparison.to_text(console_for_tables().width), flush=True)
    except BrokenPipeError:  # `| head`: the status is what a CI reads
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return comparison.exit_code


def merge(
    folders: Folders,
    out: Annotated[Path, option("--out -o", "The folder to make.", None, "DIR", read=read_path)],
) -> None:
    """Put the records of several folders into one; the same cell of two machines stays two records."""

    from mnistbench.results.merging import merge_folders

    sources = [ResultsFolder(results_folder(folder)) for folder in folders]
    count = merge_folders(sources, ResultsFolder(out))
    print(f"{plural(count, 'record')} of {plural(len(sources), 'folder')}: {out}")


def results() -> None:
    """Results folders made from a tracking server."""


def from_mlflow(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Its name: that of the grid.")],
    out: Annotated[
        Path | None,
        option("--out", "The folder to make.", None, "DIR", read=read_path, default="results/EXPERIMENT"),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Rebuild a results folder from what the runs on a tracking server carry, and make its report."""
    require("tracking", "results from-mlflow")
    require("report", "results from-mlflow")
    from mnistbench import tracking

    folder = ResultsFolder(out or Path("results") / experiment)
    rebuilt = tracking.rebuild(experiment, tracking_uri, folder)
    print(f"{records_and_sessions(rebuilt.written, rebuilt.sessions)}: {folder.path}")
    for run_id, reason in rebuilt.set_aside:
        print(one_line(f"run {run_id} left out: {reason}"))
    print(write_outcome([folder]))
