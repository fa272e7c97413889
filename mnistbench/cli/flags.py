"""Flags that several commands share, each said once, and the small readers of what a user types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnistbench.cli.flag_values import path
from mnistbench.errors import UserError

CELLS, DATA, RESULTS, TRACKING, HOW = "Which cells", "Data", "Results", "Tracking", "How cells run"

GridFile = Annotated[Path, typer.Argument(metavar="GRID", help="A grid file, or a ready grid (`list grids`).")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A results folder, such as results/quick.")]
Folders = Annotated[list[Path], typer.Argument(metavar="DIR…", help="Results folders, such as results/quick.")]
Source = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_CELL", help="First digits of a cell id, a record or weights file, or an MLflow run id."
    ),
]
In = Annotated[
    Path | None,
    typer.Option(
        "--in",
        parser=path,
        metavar="DIR",
        help="Results folder in which to look for the cell.",
        show_default="results/*",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        parser=path, metavar="DIR", help="Results folder.", show_default="results/<name>", rich_help_panel=RESULTS
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the grid: training.epochs=1.", rich_help_panel=CELLS),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="AXIS=VALUE", help="A part of the grid: batch_size=64..512.", rich_help_panel=CELLS),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="Your own module or .py file.", rich_help_panel=CELLS),
]
MaxCells = Annotated[int, typer.Option("--max-cells", metavar="N", help="Refuse a larger grid.", rich_help_panel=CELLS)]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="The I-th of N parts, for N machines.", rich_help_panel=CELLS),
]
Budget = Annotated[
    str | None,
    typer.Option("--budget", metavar="TIME", help="Start no new round after it: 30m.", rich_help_panel=CELLS),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data", parser=path, metavar="DIR", help="Where data is looked for first.", rich_help_panel=DATA),
]
RayAddress = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="auto or ray://…; a local Ray if left out.", rich_help_panel=HOW)
]
Timeout = Annotated[
    str | None, typer.Option(metavar="TIME", help="Longest for a cell: 90s, 10m, 1h.", rich_help_panel=HOW)
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="End at a failed cell.", rich_help_panel=HOW)]
Force = Annotated[bool, typer.Option("--force", help="Run again what is there.", rich_help_panel=HOW)]
NoSpeed = Annotated[bool, typer.Option("--no-speed", help="Train, and time no cycles of blocks.", rich_help_panel=HOW)]
RerunNoisy = Annotated[
    bool, typer.Option("--rerun-noisy", help="Replace rounds with noise, once.", rich_help_panel=HOW)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would run.", rich_help_panel=HOW)]
NoTracking = Annotated[bool, typer.Option("--no-tracking", help="Records only, no MLflow.", rich_help_panel=TRACKING)]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="Of an MLflow server; $MLFLOW_TRACKING_URI if left out, else mlflow.db in this folder.",
        rich_help_panel=TRACKING,
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        "--experiment",
        metavar="NAME",
        help="Of MLflow, shared with other folders; $MLFLOW_EXPERIMENT_NAME if left out, else this folder's own.",
        rich_help_panel=TRACKING,
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option("--figures", parser=path, metavar="DIR", help="Each figure as SVG and PNG.", rich_help_panel=RESULTS),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard", parser=path, metavar="DIR", help="Curves as TensorBoard event files.", rich_help_panel=RESULTS
    ),
]


def results_folder(path: Path) -> Path:
    """A folder that a run wrote.

    Raises:
        UserError: if it is none.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; a run writes results/<grid name>")
    if not (path / "cells").is_dir():
        raise UserError(f"{path}: no results folder (it has no `cells` in it); a run writes results/<grid name>")
    return path
