"""`run cells.json` on a machine with torch alone: no typer, pydantic, mlflow, YAML reader or report needed.

`plan grid.yaml --resolved cells.json` makes the file where everything is installed; records travel back, and `sync`
and `report` there do the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mnistbench.cli.flag_values import path
from mnistbench.errors import UserError
from mnistbench.files.homeless import ensure_home


def main(arguments: Sequence[str]) -> int:
    """Run resolved cells; the exit status is that of `run`.

    Args:
        arguments: what follows `run`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mnistbench run",
        description="Train cells that `plan --resolved` wrote. (typer, rich or pydantic is missing here: other"
        " commands and grid files need the full installation.)",
    )
    parser.add_argument("cells", type=Path, metavar="CELLS.json")
    parser.add_argument("--out", type=path, metavar="DIR", help="results folder")
    parser.add_argument("--data", type=path, metavar="DIR", help="where data is looked for first")
    parser.add_argument("--executor", choices=["process", "inline"], default="process")
    parser.add_argument("--timeout", metavar="TIME", help="longest for a cell: 90s, 10m, 1h")
    parser.add_argument("--budget", metavar="TIME", help="start no new round after it: 30m")
    parser.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE")
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N parts")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE")
    parser.add_argument("--fail-fast", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--rerun-noisy", action="store_true")
    parser.add_argument("--no-tracking", action="store_true", help="always so here: mlflow is left to `sync` elsewhere")
    try:
        ensure_home()
        return _run(parser.parse_args(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    from mnistbench.axes.plugins import load_plugins
    from mnistbench.cli.flag_values import seconds, shard
    from mnistbench.grid.resolved import read_resolved
    from mnistbench.run.progress import PlainLines
    from mnistbench.run.run import run_grid

    if given.cells.suffix != ".json":
        raise UserError(f"{given.cells}: grid files need pydantic and ruamel.yaml; `plan --resolved` makes a .json")
    summary = run_grid(
        read_resolved(given.cells),
        out=given.out,
        data_dir=given.data,
        executor=given.executor,
        timeout_seconds=seconds(given.timeout, "--timeout"),
        fail_fast=given.fail_fast,
        force=given.force,
        only=given.only,
        plugins=load_plugins(given.plugin),
        progress=PlainLines(),
        rerun_noisy=given.rerun_noisy,
        shard=shard(given.shard),
        budget_seconds=seconds(given.budget, "--budget"),
        own_process=True,
    )
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    print(f"cells: {counts}; records in {summary.results.path}")
    print("bring that folder back, then: python -m mnistbench sync DIR; python -m mnistbench report DIR")
    return summary.exit_code
