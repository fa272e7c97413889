"""Flags: those that several commands share, and those of `run`, each said once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from mnistbench.axes.devices import NAME, nearest_device
from mnistbench.axes.plugins import load_plugins
from mnistbench.errors import UserError
from mnistbench.errors.problems import shown
from mnistbench.results.ownership import is_marked, is_record_name

if TYPE_CHECKING:
    from mnistbench.run.options import RunOptions

CELLS, DATA, RESULTS, TRACKING, HOW = "Which cells", "Data", "Results", "Tracking", "How cells run"
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Shard(NamedTuple):
    """One of several parts of a grid, counted from 1."""

    number: int
    parts: int


def read_seconds(flag: str, text: str) -> float:
    """`90`, `90s`, `10m`, `1.5h` in seconds.

    Raises:
        UserError: for anything else, and for what is not above zero.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise UserError(f"{flag} {text}: give a time such as 90s, 10m or 1.5h")
    return float(match[1]) * UNITS[match[2] or "s"]


def read_part(flag: str, text: str) -> Shard:
    """`2/5` as (2, 5).

    Raises:
        UserError: unless it is one of that many parts.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"{flag} {text}: give the part and the number of parts, such as 2/5 for the second of five")
    return Shard(int(match[1]), int(match[2]))


def read_path(flag: str, text: str) -> Path:
    """A path; empty text (`--out "$UNSET"`) would be the working folder, which nobody meant.

    Raises:
        UserError: for empty text.
    """
    if not text.strip():
        raise UserError("an empty path was given: name one, or leave the flag out")
    return Path(text)


def read_device(flag: str, text: str) -> str:
    """A device's name.

    Raises:
        UserError: for anything else.
    """
    if not NAME.fullmatch(text):
        raise UserError(f"{flag} {shown(text)}: a device must be cpu, cuda, cuda:1 or mps{nearest_device(text)}")
    return text


def option(
    flag: str,
    text: str,
    panel: str | None = None,
    metavar: str | None = None,
    *,
    read: Callable[[str, str], Any] | None = None,
    default: str | None = None,
) -> Any:
    """A flag, as typer wants it in `Annotated`.

    Args:
        flag: its name, and a short one after a space.
        text: of the help, which shows it under the heading `panel`.
        read: makes the value of the flag's name and what was typed.
        default: in words, where the help is to say it.
    """
    parser = None if read is None else lambda typed: read(flag, typed)
    return typer.Option(
        *flag.split(), help=text, rich_help_panel=panel, metavar=metavar, parser=parser, show_default=default or True
    )


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
    option("--in", "Results folder in which to look for the cell.", None, "DIR", read=read_path, default="results/*"),
]
Plugin = Annotated[list[str] | None, option("--plugin", "Your own module or .py file.", CELLS, "MODULE")]
DataDir = Annotated[Path | None, option("--data", "Where data is looked for first.", DATA, "DIR", read=read_path)]
TRACKING_URI = "Of an MLflow server; $MLFLOW_TRACKING_URI if left out, else mlflow.db in this folder."
TrackingUri = Annotated[str | None, option("--tracking-uri", TRACKING_URI, TRACKING, "URI")]
EXPERIMENT = "Of MLflow, shared with other folders; $MLFLOW_EXPERIMENT_NAME if left out, else this folder's own."
Experiment = Annotated[str | None, option("--experiment", EXPERIMENT, TRACKING, "NAME")]
Figures = Annotated[Path | None, option("--figures", "Each figure as SVG and PNG.", RESULTS, "DIR", read=read_path)]
TensorBoard = Annotated[
    Path | None, option("--tensorboard", "Curves as TensorBoard event files.", RESULTS, "DIR", read=read_path)
]


class ExecutorName(StrEnum):
    """Where cells run: processes here, this very process, or a Ray cluster."""

    process = "process"
    inline = "inline"
    ray = "ray"


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """The flags of `run`, in the order of its help. One that has the name of a field of `RunOptions` becomes it."""

    out: Annotated[
        Path | None, option("--out", "Results folder.", RESULTS, "DIR", read=read_path, default="results/<name>")
    ] = None
    figures: Figures = None
    tensorboard: TensorBoard = None
    only: Annotated[
        list[str] | None, option("--only", "A part of the grid: batch_size=64..512.", CELLS, "AXIS=VALUE")
    ] = None
    changes: Annotated[list[str] | None, option("--set", "Change the grid: training.epochs=1.", CELLS, "KEY=VALUE")] = (
        None
    )
    shard: Annotated[
        Shard | None, option("--shard", "The I-th of N parts, for N machines.", CELLS, "I/N", read=read_part)
    ] = None
    budget_seconds: Annotated[
        float | None, option("--budget", "Start no new round after it: 30m.", CELLS, "TIME", read=read_seconds)
    ] = None
    plugin: Plugin = None
    max_cells: Annotated[int, option("--max-cells", "Refuse a larger grid.", CELLS, "N")] = 100_000
    data_dir: DataDir = None
    executor: Annotated[ExecutorName, option("--executor", "Where cells run.", HOW)] = ExecutorName.process
    ray_address: Annotated[
        str | None, option("--ray-address", "auto or ray://…; a local Ray if left out.", HOW, "ADDRESS")
    ] = None
    timeout_seconds: Annotated[
        float | None, option("--timeout", "Longest for a cell: 90s, 10m, 1h.", HOW, "TIME", read=read_seconds)
    ] = None
    fail_fast: Annotated[bool, option("--fail-fast", "End at a failed cell.", HOW)] = False
    force: Annotated[bool, option("--force", "Run again what is there.", HOW)] = False
    no_speed: Annotated[bool, option("--no-speed", "Train, and time no cycles of blocks.", HOW)] = False
    rerun_noisy: Annotated[bool, option("--rerun-noisy", "Replace rounds with noise, once.", HOW)] = False
    dry_run: Annotated[bool, option("--dry-run", "Only say what would run.", HOW)] = False
    tracking_uri: TrackingUri = None
    experiment: Experiment = None
    no_tracking: Annotated[bool, option("--no-tracking", "Records only, no MLflow.", TRACKING)] = False

    def options(self) -> RunOptions:
        """What the runner is told.

        Raises:
            UserError: for a plug-in that cannot be loaded.
        """
        from mnistbench.run.options import RunOptions

        typed = ((field.name, getattr(self, field.name, None)) for field in fields(RunOptions))
        told: dict[str, Any] = {name: value for name, value in typed if value is not None}
        return RunOptions(**told, plugins=load_plugins(self.plugin or ()), speed=not self.no_speed, own_process=True)


def takes_run_flags(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `RunFlags` as its last argument, and typer a signature with each of them.

    Args:
        names: those that the command has, in the order of its help; all if left out.
    """
    types = get_type_hints(RunFlags, include_extras=True)
    taken = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(RunFlags, name), annotation=types[name])
        for name in names or types
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        *own, _ = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def called(**given: Any) -> Any:
            typed = {flag.name: given.pop(flag.name) for flag in taken}
            return command(**given, flags=RunFlags(**typed))

        called.__signature__ = inspect.Signature([*own, *taken])  # type: ignore[attr-defined]
        return called

    return decorate


def results_folder(path: Path) -> Path:
    """A folder that a run wrote.

    Raises:
        UserError: if it is none.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; a run writes results/<grid name>")
    if not (path / "cells").is_dir():
        raise UserError(f"{path}: no results folder (it has no `cells` in it); a run writes results/<grid name>")
    files = list((path / "cells").iterdir())
    if files and not is_marked(path) and not any(map(is_record_name, files)):
        raise UserError(f"{path}: no results folder (nothing in its `cells` is named as a record of mnistbench)")
    return path
