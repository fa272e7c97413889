"""`run`, `plan`, `status`, `sync`: train a grid, say beforehand what it takes, and how far it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnistbench.cli.flags import (
    Experiment,
    Folder,
    GridFile,
    RunFlags,
    TrackingUri,
    option,
    read_device,
    results_folder,
    takes_run_flags,
)
from mnistbench.cli.outcome import (
    console_for_tables,
    print_best,
    print_cells,
    print_outcome,
    typed_again,
    write_outcome,
)
from mnistbench.errors import UserError
from mnistbench.errors.layers import Layer, left_out, missing, require
from mnistbench.grid import ready
from mnistbench.results.folder import ResultsFolder
from mnistbench.run.progress import display_for
from mnistbench.run.watchers import ReportWriter
from mnistbench.words.markdown import one_line
from mnistbench.words.wording import plural, records_and_sessions

if TYPE_CHECKING:
    from mnistbench.axes.plugins import Plugins
    from mnistbench.grid.grid import Grid
    from mnistbench.train.watcher import Watcher

OF_AN_OLDER_RELEASE = (
    "`run` takes grid files, in JSON too under a name that ends in .yaml; cells that were resolved elsewhere belong to"
    " an older release. On a machine without a network, install the core from wheels and run the grid file there: `pip"
    " download --only-binary=:all: --python-version 3.12 -d DIR -r requirements/core.txt 'setuptools>=77'` where there"
    " is a network, then `pip"
    " install --no-index --find-links DIR -r requirements/core.txt` and the same with `--no-deps .` (docs/clusters.md)"
)


@takes_run_flags()
def run(context: typer.Context, grid: GridFile, *, flags: RunFlags) -> int:
    """Train the cells of a grid, or what is left of them, and write the report.

    What has a result is kept; what failed is tried again. Ctrl-C once ends the present cell and writes the report.
    """
    from mnistbench.run.run import run_grid

    for flag, value in (("--tracking-uri", flags.tracking_uri), ("--experiment", flags.experiment)):
        if flags.no_tracking and value is not None:
            raise UserError(f"{flag} and --no-tracking exclude each other")
    if flags.figures is not None or flags.tensorboard is not None:
        require("report", "run --figures" if flags.figures else "run --tensorboard")
    options = flags.options()
    loaded = load_grid(grid, flags.changes or (), options.plugins, flags.max_cells)
    if flags.dry_run:
        from mnistbench.run.plan import make_plan

        planned = make_plan(loaded, options)
        print("\n".join([*planned.lines(), *planned.cell_lines()]))
        return 0
    results = options.results(loaded.name)
    watchers = _watchers(results, flags.figures, flags.tensorboard)
    if not flags.no_tracking and not missing("tracking"):
        from mnistbench.tracking import Mirror

        watchers.append(Mirror(flags.tracking_uri, results, loaded.name, experiment=flags.experiment))
    summary = run_grid(loaded, options, watchers)
    layers: tuple[Layer, ...] = ("report",) if flags.no_tracking else ("report", "tracking")
    print_outcome(summary, typed_again(context.obj), flags.tracking_uri, left_out(layers, results.path))
    return summary.exit_code


def _watchers(results: ResultsFolder, figures: Path | None, tensorboard: Path | None) -> list[Watcher]:
    """Who watches a run at a terminal, beside the mirror, which comes last: it takes the report along."""

    from mnistbench.run.status import StatusFile

    watchers: list[Watcher] = [StatusFile(results), display_for()]
    if not missing("report"):
        watchers.append(ReportWriter(lambda folder: write_outcome([folder], figures=figures, tensorboard=tensorboard)))
    return watchers


@takes_run_flags("out", "only", "changes", "shard", "budget_seconds", "no_speed", "plugin", "max_cells", "data_dir")
def plan(
    grid: GridFile,
    *,
    device: Annotated[
        list[str] | None,
        option("--device", "Of the machine that runs it.", None, "NAME", read=read_device, default="this machine's"),
    ] = None,
    flags: RunFlags,
) -> None:
    """How many cells a grid has, what is left of them, and how long that will take here; trains nothing."""
    from mnistbench.run import plan as planning

    options = flags.options()
    loaded = load_grid(grid, flags.changes or (), options.plugins, sys.maxsize)
    count = planning.count(loaded, device)
    if count > flags.max_cells:
        print(f"{loaded.name}: {plural(count, 'cell')}")
        print(f"more than --max-cells {flags.max_cells:,}: `run` would refuse it, and this looks no further")
        return
    planned = planning.make_plan(loaded, options, devices=device)
    print("\n".join([f"{loaded.name}: {plural(planned.total, 'cell')}", *planned.lines()]))


def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A ready grid: see `list grids`.")] = "quick",
) -> None:
    """Write a ready grid into the working folder, to be edited."""

    first, *others = ready.write(name, Path())
    print(f"written: {', '.join(map(str, [first, *others]))}; run it with `{context.obj[0]} run {first}`")


def status(
    folder: Folder,
    *,
    cells: Annotated[bool, typer.Option("--cells", help="A line for each cell, with its id.")] = False,
) -> int:
    """How far a run is: counts by status, the best cells so far, and who is at it."""

    from mnistbench.run.status import status_lines

    results = ResultsFolder(results_folder(folder))
    console = console_for_tables()
    if cells:
        print_cells(results, console)
    else:
        print_best(results, console)
    for line in status_lines(results):
        console.print(one_line(line), markup=False, soft_wrap=True)
    return 0


def sync(folder: Folder, *, tracking_uri: TrackingUri = None, experiment: Experiment = None) -> int:
    """Mirror into MLflow what is not there yet; doing it twice changes nothing."""
    require("tracking", "sync")
    from mnistbench import tracking

    done = tracking.sync(ResultsFolder(results_folder(folder)), tracking_uri, experiment=experiment)
    mirrored, already, failed = (
        records_and_sessions(*counts)
        for counts in zip((done.mirrored, done.already, done.failed), done.sessions, strict=True)
    )
    print(f"{mirrored} mirrored now; there already: {already}, missing: {failed}")
    if done.note:
        print(f"note: {done.note}")
    if done.reason:
        again = "; run `sync` again later" if done.waiting_helps else ""
        print(f"error: {done.reason}{again}", file=sys.stderr)
        return 1
    print(f"look at them: {tracking.ui_command(tracking_uri or tracking.default_uri())}")
    return 0


def load_grid(path: Path, overrides: Sequence[str], plugins: Plugins | None, max_cells: int) -> Grid:
    """A grid file or a ready grid.

    Raises:
        UserError: for whatever is wrong with it, with places.
    """
    from mnistbench.grid.grid import Grid

    given, path = path, ready.grid_file(path)
    if path != given:
        print(f"grid: {path.stem}, which comes with mnistbench; `init {path.stem}` writes it here to edit")
    if path.suffix == ".json":
        raise UserError(f"{path}: {OF_AN_OLDER_RELEASE}")
    return Grid.load(path, overrides=overrides, plugins=plugins, max_cells=max_cells)
