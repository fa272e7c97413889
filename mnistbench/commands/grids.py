"""`run`, `plan`, `status`, `sync`: train a grid, say beforehand what it takes, and how far it is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnistbench.commands import flags
from mnistbench.commands.flags import RESULTS, TRACKING
from mnistbench.errors import UserError

if TYPE_CHECKING:
    from mnistbench.grid import Grid

HOW = "How cells run"


class ExecutorName(StrEnum):
    """Where cells run: processes here, this very process, or a Ray cluster."""

    process = "process"
    inline = "inline"
    ray = "ray"


def run(
    grid: flags.GridFile,
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Results folder.", show_default="results/<name>", rich_help_panel=RESULTS),
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
    no_tracking: Annotated[
        bool, typer.Option("--no-tracking", help="Records only, no MLflow.", rich_help_panel=TRACKING)
    ] = False,
) -> int:
    """Train the cells of a grid, or what is left of them, and write the report.

    What has a result is kept; what failed is tried again. Ctrl-C once ends the present cell and writes the report.
    """
    from mnistbench.commands.outcome import print_outcome, write_outcome
    from mnistbench.commands.screen import screen
    from mnistbench.plugins import load_plugins
    from mnistbench.runner import run_grid

    budget_seconds, timeout_seconds = flags.seconds(budget, "--budget"), flags.seconds(timeout, "--timeout")
    part = flags.shard(shard)
    if ray_address is not None and executor is not ExecutorName.ray:
        raise UserError("--ray-address needs --executor ray")
    if no_tracking and tracking_uri is not None:
        raise UserError("--tracking-uri and --no-tracking exclude each other")
    plugins = load_plugins(plugin or [])
    loaded = load_grid(grid, set_, plugin, max_cells)
    if dry_run:
        return print_plan(loaded, out=out, only=only, shard=part, budget_seconds=budget_seconds, data_dir=data_dir)
    with screen() as progress:
        summary = run_grid(
            loaded,
            out=out,
            data_dir=data_dir,
            tracking_uri=tracking_uri,
            tracking=not no_tracking,
            executor=executor.value,
            timeout_seconds=timeout_seconds,
            fail_fast=fail_fast,
            force=force,
            only=only or (),
            plugins=plugins,
            progress=progress,
            rerun_noisy=rerun_noisy,
            shard=part,
            budget_seconds=budget_seconds,
        )
    write_outcome([summary.results], figures=figures, tensorboard=tensorboard)
    print_outcome(summary)
    return summary.exit_code
