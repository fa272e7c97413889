"""`run`, `plan`, `status`, `sync`: train a grid, say beforehand what it takes, and how far it is."""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnistbench.cli import flags
from mnistbench.cli.flag_values import path, seconds
from mnistbench.cli.flag_values import shard as read_shard
from mnistbench.cli.flags import RESULTS, TRACKING
from mnistbench.errors import UserError
from mnistbench.words.wording import plural

if TYPE_CHECKING:
    from mnistbench.axes.plugins import Plugins
    from mnistbench.grid.grid import Grid
    from mnistbench.grid.resolved import ResolvedGrid
    from mnistbench.results.folder import ResultsFolder
    from mnistbench.run.executors import Executor
    from mnistbench.tracking import Mirror

HOW = "How cells run"


class ExecutorName(StrEnum):
    """Where cells run: processes here, this very process, or a Ray cluster."""

    process = "process"
    inline = "inline"
    ray = "ray"


def run(
    context: typer.Context,
    grid: flags.GridFile,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="DIR", help="Results folder.", show_default="results/<name>", rich_help_panel=RESULTS
        ),
    ] = None,
    figures: flags.Figures = None,
    tensorboard: flags.TensorBoard = None,
    only: flags.Only = None,
    set_: flags.Set = None,
    shard: flags.Shard = None,
    budget: flags.Budget = None,
    plugin: flags.Plugin = None,
    max_cells: flags.MaxCells = 100_000,
    data_dir: flags.DataDir = None,
    executor: Annotated[ExecutorName, typer.Option(help="Where cells run.", rich_help_panel=HOW)] = (
        ExecutorName.process
    ),
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="auto or ray://…; a local Ray if left out.", rich_help_panel=HOW),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest for a cell: 90s, 10m, 1h.", rich_help_panel=HOW)
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at a failed cell.", rich_help_panel=HOW)] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again what is there.", rich_help_panel=HOW)] = False,
    rerun_noisy: Annotated[
        bool, typer.Option("--rerun-noisy", help="Replace rounds with noise, once.", rich_help_panel=HOW)
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.", rich_help_panel=HOW)] = False,
    tracking_uri: flags.TrackingUri = None,
    experiment: flags.Experiment = None,
    no_tracking: Annotated[
        bool, typer.Option("--no-tracking", help="Records only, no MLflow.", rich_help_panel=TRACKING)
    ] = False,
) -> int:
    """Train the cells of a grid, or what is left of them, and write the report.

    What has a result is kept; what failed is tried again. Ctrl-C once ends the present cell and writes the report.
    """
    from mnistbench.axes.plugins import load_plugins
    from mnistbench.cli.outcome import print_outcome, typed_again, write_outcome
    from mnistbench.results.folder import ResultsFolder
    from mnistbench.run.progress import for_stream
    from mnistbench.run.run import run_grid
    from mnistbench.run.status import Noted

    budget_seconds, timeout_seconds = seconds(budget, "--budget"), seconds(timeout, "--timeout")
    part = read_shard(shard)
    if ray_address is not None and executor is not ExecutorName.ray:
        raise UserError("--ray-address needs --executor ray")
    if no_tracking and tracking_uri is not None:
        raise UserError("--tracking-uri and --no-tracking exclude each other")
    if no_tracking and experiment is not None:
        raise UserError("--experiment and --no-tracking exclude each other")
    plugins = load_plugins(plugin or [])
    loaded = load_grid(grid, set_, plugins, max_cells)
    if dry_run:
        from mnistbench.run import plan as planning

        planned = planning.plan(
            loaded,
            results=out,
            only=only or (),
            shard=part,
            budget_seconds=budget_seconds,
            data_dir=data_dir,
            plugins=plugins,
        )
        print("\n".join([*planned.lines(), *planned.cell_lines()]))
        return 0
    summary = run_grid(
        loaded,
        out=out,
        data_dir=data_dir,
        make_mirror=None if no_tracking else partial(_mirror, tracking_uri, experiment),
        executor=_executor(executor, ray_address, plugins),
        timeout_seconds=timeout_seconds,
        fail_fast=fail_fast,
        force=force,
        only=only or (),
        plugins=plugins,
        progress=Noted(for_stream(), ResultsFolder(out or Path("results") / loaded.name)),
        rerun_noisy=rerun_noisy,
        shard=part,
        budget_seconds=budget_seconds,
        write_report=lambda results: write_outcome([results], figures=figures, tensorboard=tensorboard),
        own_process=True,
    )
    print_outcome(summary, typed_again(context.obj), tracking_uri)
    return summary.exit_code


def _mirror(uri: str | None, experiment: str | None, results: ResultsFolder, name: str) -> Mirror:
    from mnistbench.tracking import Mirror

    return Mirror(uri, results, name, experiment=experiment)


def _executor(name: ExecutorName, ray_address: str | None, plugins: Plugins) -> str | Executor:
    if name is not ExecutorName.ray:
        return name.value
    from mnistbench.run.ray import RayExecutor

    return RayExecutor(ray_address, plugins=plugins.names)


def plan(
    grid: flags.GridFile,
    *,
    resolved: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="FILE", help="Write the cells as JSON, for `run FILE` on a machine with torch alone."
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Devices of the machine that will run it.", show_default="this machine's")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=path, metavar="DIR", help="Results folder.", show_default="results/<name>")
    ] = None,
    only: flags.Only = None,
    set_: flags.Set = None,
    shard: flags.Shard = None,
    budget: flags.Budget = None,
    plugin: flags.Plugin = None,
    max_cells: flags.MaxCells = 100_000,
    data_dir: flags.DataDir = None,
) -> None:
    """How many cells a grid has, what is left of them, and how long that will take here; trains nothing."""
    from mnistbench.axes.plugins import load_plugins
    from mnistbench.run import plan as planning

    budget_seconds, part = seconds(budget, "--budget"), read_shard(shard)
    plugins = load_plugins(plugin or [])
    loaded = load_grid(grid, set_, plugins, sys.maxsize)
    count = planning.count(loaded, device)
    if count > max_cells:
        print(f"{loaded.name}: {plural(count, 'cell')}")
        print(f"more than --max-cells {max_cells:,}: `run` would refuse it, and this looks no further")
        return
    planned = planning.plan(
        loaded,
        results=out,
        devices=device,
        only=only or (),
        shard=part,
        budget_seconds=budget_seconds,
        data_dir=data_dir,
        plugins=plugins,
    )
    print("\n".join([f"{loaded.name}: {plural(planned.total, 'cell')}", *planned.lines()]))
    if resolved is not None:
        planning.write(loaded, planned, resolved)
        print(f"written: {resolved}; run it with `python -m mnistbench run {resolved} --no-tracking`")


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A ready grid: see `list grids`.")] = "quick",
) -> None:
    """Write a ready grid into the working folder, to be edited."""
    from mnistbench.grid import ready

    first, *others = ready.write(name, Path())
    print(f"written: {', '.join(map(str, [first, *others]))}; run it with `python -m mnistbench run {first}`")


def status(
    folder: flags.Folder,
    *,
    cells: Annotated[bool, typer.Option("--cells", help="A line for each cell, with its id.")] = False,
) -> int:
    """How far a run is: counts by status, the best cells so far, and who is at it."""
    from mnistbench.cli.outcome import console_for_tables, print_best, print_cells
    from mnistbench.results.folder import ResultsFolder
    from mnistbench.run.status import standing

    results = ResultsFolder(flags.results_folder(folder))
    console = console_for_tables()
    if cells:
        print_cells(results, console)
    else:
        print_best(results, console)
    for line in standing(results):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def sync(folder: flags.Folder, *, tracking_uri: flags.TrackingUri = None, experiment: flags.Experiment = None) -> int:
    """Mirror into MLflow what is not there yet; doing it twice changes nothing."""
    from mnistbench import tracking
    from mnistbench.results.folder import ResultsFolder

    done = tracking.sync(ResultsFolder(flags.results_folder(folder)), tracking_uri, experiment=experiment)
    print(f"{plural(done.mirrored, 'record')} mirrored now; there already: {done.already}, missing: {done.failed}")
    if done.note:
        print(f"note: {done.note}")
    if done.reason:
        again = "; run `sync` again later" if done.waiting_helps else ""
        print(f"error: {done.reason}{again}", file=sys.stderr)
        return 1
    print(f"look at them: {tracking.ui_command(tracking_uri or tracking.default_uri())}")
    return 0


def load_grid(path: Path, overrides: list[str] | None, plugins: Plugins, max_cells: int) -> Grid | ResolvedGrid:
    """A grid file, a ready grid, or one that was resolved to its cells elsewhere.

    Raises:
        UserError: for whatever is wrong with it, with places.
    """
    from mnistbench.grid import ready

    given, path = path, ready.grid_file(path)
    if path != given:
        print(f"grid: {path.stem}, which comes with mnistbench; `init {path.stem}` writes it here to edit")
    if path.suffix == ".json":
        from mnistbench.grid.resolved import read_resolved

        if overrides:
            raise UserError(f"--set changes a grid file, and {path} holds cells: change the grid, and resolve it again")
        return read_resolved(path)
    from mnistbench.grid.grid import Grid

    return Grid.load(path, overrides=overrides or (), plugins=plugins, max_cells=max_cells)
