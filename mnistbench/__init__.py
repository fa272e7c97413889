"""mnistbench: what training costs here, and what it reaches.

The same pieces as the command line, for notebooks and scripts; each is imported when it is first used:

    from mnistbench import Grid, ResultsFolder, RunOptions, Watcher, load_model, results_frame, run_grid
    from mnistbench import report

`report` is the room that makes pages: `report.render(["results/quick"], Path("report.html"))`. What stands here puts
together what the rooms may not know of each other: a run and its mirror in MLflow, a kept model and its download.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistbench import report
    from mnistbench.cell import __version__
    from mnistbench.grid.grid import Grid
    from mnistbench.report.frame import results_frame
    from mnistbench.results.folder import ResultsFolder
    from mnistbench.run.options import RunOptions
    from mnistbench.run.run import RunSummary
    from mnistbench.train.watcher import Watcher
    from mnistbench.train.weights import KeptModel

__all__ = [
    "Grid",
    "ResultsFolder",
    "RunOptions",
    "Watcher",
    "__version__",
    "load_model",
    "report",
    "results_frame",
    "run_grid",
]

_ROOMS = {
    "__version__": "mnistbench.cell",
    "Grid": "mnistbench.grid.grid",
    "ResultsFolder": "mnistbench.results.folder",
    "RunOptions": "mnistbench.run.options",
    "Watcher": "mnistbench.train.watcher",
    "results_frame": "mnistbench.report.frame",
}


def run_grid(
    grid: Grid,
    options: RunOptions | None = None,
    *,
    watchers: Sequence[Watcher] = (),
    tracking: bool = True,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    **flags: Any,
) -> RunSummary:
    """Train the cells of a grid that have no result yet, and mirror the records in MLflow.

    Args:
        grid: from `Grid.load`.
        options: how it is run; made of the flags if left out.
        watchers: are told what happens: `run.progress.PlainLines()`, `run.watchers.ReportWriter(…)`, or a subclass of
            `Watcher` with the methods that you need.
        tracking: False for records only.
        tracking_uri: of an MLflow server; MLflow's environment variable, else sqlite in the working folder.
        experiment: of MLflow, to be shared with other folders; MLflow's environment variable, else the folder's own.
        flags: `out`, `executor`, `force`, `only` and the others that `RunOptions` describes.

    Raises:
        KeyboardInterrupt: at Ctrl-C, when workers have ended and records are kept.
        TypeError: for options and flags together, and for an unknown flag.
        UserError: for everything the user can mend: data, devices, conditions, a folder that cannot be written.
    """
    from mnistbench.errors.layers import left_out, missing
    from mnistbench.run.options import RunOptions
    from mnistbench.run.run import run_grid as run

    if options is not None and flags:
        raise TypeError(f"run_grid takes options or flags ({', '.join(flags)}), not both")
    options = options or RunOptions(**flags)
    if not tracking:
        return run(grid, options, watchers)
    results = options.results(grid.name)
    if missing("tracking"):
        summary = run(grid, options, watchers)
        summary.warnings.extend(filter(None, [left_out(("tracking",), results.path)]))
        return summary
    from mnistbench.tracking import Mirror

    return run(grid, options, [*watchers, Mirror(tracking_uri, results, grid.name, experiment=experiment)])


def load_model(
    source: str | Path,
    *,
    results: Path | None = None,
    tracking_uri: str | None = None,
    plugins: Sequence[str] = (),
) -> KeptModel:
    """Load a model that a grid with `training: {save_model: …}` kept.

    Args:
        source: a weights file, a record file, the first digits of a cell id, or an MLflow run id.
        results: the results folder where a cell id is looked for; every folder in `results/` if left out.
        tracking_uri: where an MLflow run id is looked for; the usual place if left out.
        plugins: modules or `.py` files that define a network of your own.

    Raises:
        UserError: if there is no such model, or its files are broken.
    """
    from mnistbench.kept.find import find_weights
    from mnistbench.train.weights import read_model

    with tempfile.TemporaryDirectory(prefix="mnistbench-") as downloads:

        def download(run_id: str) -> list[Path]:
            from mnistbench.tracking import download_weights

            return download_weights(run_id, tracking_uri, Path(downloads))

        return read_model(find_weights(str(source), folder=results, download=download), plugins=plugins)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "report":
        return import_module("mnistbench.report")
    if name not in _ROOMS:
        raise AttributeError(f"module 'mnistbench' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), "report", *_ROOMS])
